"""Inclusion probabilities of sparse regressions: every inference against the sum over supports.

Weights on a chain of supports, noise precision 4, twice as many samples as weights; columns are
independent, share a common factor as strong as themselves, or come in three pairs that are all but
the same; and once fewer samples than weights. Errors are the largest of each
problem; times are CPU seconds of one thread.

    probcomp bench regression [--problems 30 --seed 1000]
    probcomp bench regression --settings 4 5 --problems 12    # these take seconds a problem
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from probcomp.inference.regression import Data
from probcomp.inference.selection import select_variables
from probcomp.priors import Chain
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "regression.json"
CHAIN, SLAB, SPIKE, NOISE = Chain(p01=0.1, p10=0.3), 1.0, 400.0, 4.0
SETTINGS = (
    (10, 20, "independent"),
    (10, 20, "correlated"),
    (14, 28, "independent"),
    (14, 28, "correlated"),
    (10, 20, "three pairs"),
    (14, 8, "independent"),
)
"""Weights, samples, columns."""
OTHERS = ("ep", "joint", "turbo")


def problem(seed: int, size: int, samples: int, columns: str) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, size, dtype=torch.double, generator=generator)
    if columns == "correlated":
        x = x + torch.randn(samples, 1, dtype=torch.double, generator=generator)
    if columns == "three pairs":
        apart = torch.randn(samples, 3, dtype=torch.double, generator=generator)
        x[:, 3:6] = x[:, :3] + 0.05 * apart
    support = CHAIN.sample((size,), generator=generator)
    scale = torch.where(support, SLAB**-0.5, SPIKE**-0.5)
    weight = scale * torch.randn(size, dtype=torch.double, generator=generator)
    noise = torch.randn(samples, dtype=torch.double, generator=generator)
    return Data(x, x @ weight + NOISE**-0.5 * noise, NOISE)


def compare(size: int, samples: int, columns: str, seeds: range) -> dict[str, Any]:
    """Mean and worst error of probabilities and evidence of each inference, and its time."""
    off: dict[str, list[float]] = {name: [] for name in OTHERS}
    nats: dict[str, list[float]] = {name: [] for name in OTHERS}
    seconds: dict[str, list[float]] = {name: [] for name in ("exact", *OTHERS)}
    unsettled = dict.fromkeys(OTHERS, 0)
    for seed in seeds:
        data = problem(seed, size, samples, columns)
        found = {}
        for name in ("exact", *OTHERS):
            began = time.process_time()
            found[name] = select_variables(data, CHAIN, slab=SLAB, spike=SPIKE, inference=name)
            seconds[name].append(time.process_time() - began)
        for name in OTHERS:
            gap = found[name].probability - found["exact"].probability
            off[name].append(float(gap.abs().max()))
            nats[name].append(found[name].log_evidence - found["exact"].log_evidence)
            unsettled[name] += not found[name].converged
    row: dict[str, Any] = {"weights": size, "samples": samples, "columns": columns}
    row |= {"problems": len(seeds), "first_seed": seeds[0]}
    row["exact"] = {"median_seconds": statistics.median(seconds["exact"])}
    for name in OTHERS:
        row[name] = {
            "mean_error": statistics.mean(off[name]),
            "worst_error": max(off[name]),
            "mean_nats": statistics.mean(nats[name]),
            "worst_nats": max(nats[name], key=abs),
            "not_settled": unsettled[name],
            "median_seconds": statistics.median(seconds[name]),
        }
        print(
            f"{size} of {samples} {columns:11} {name:5} mean {row[name]['mean_error']:.3f} worst "
            f"{row[name]['worst_error']:.3f}, evidence {row[name]['mean_nats']:+.3f} nats, "
            f"{row[name]['median_seconds']:.3f} s",
            flush=True,
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1000, help="the first problem's")
    parser.add_argument("--settings", type=int, nargs="+", default=list(range(len(SETTINGS))))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.problems)
    known = read_json(options.out)["rows"] if options.out.is_file() else []
    found = {tuple(row[k] for k in ("weights", "samples", "columns")): row for row in known}
    for setting in (SETTINGS[i] for i in options.settings):  # rows of others stay as they are
        found[setting] = compare(*setting, seeds)
        record = {
            "command": "probcomp bench regression [--settings 4 5 --problems 12]",
            "machine": machine(),
            "torch": torch.__version__,
            "rows": [found[s] for s in SETTINGS if s in found],
        }
        write_json(options.out, record)


if __name__ == "__main__":
    main()
