"""The embedded default over several seeds: Turbo-VBI beside magnitude pruning.

For each seed a 64-300-100-10 network is trained on the handwritten digits and compressed to a
tenth of its parameters, by both methods, from the same dense network. Regularity is compared at
equal non-zeros of each matrix, against two forms of magnitude pruning: as it is, and with its
units put into the same kind of order (spectral) that ours are in, so that order alone cannot
explain the difference. What each method compressed is written as one coded file, read back, and
scored on the test images again.

    probcomp bench compress --seeds 5
    probcomp bench compress --checks --seeds 5    # how inclusion numbers passed their checks
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import probcomp
from probcomp.data import Batches, Data, load_digits
from probcomp.evaluation import magnitude_mask, measure_regularity
from probcomp.inference.training.ordering import spectral_order
from probcomp.models import LeNet300100
from probcomp.models.train import train
from probcomp.recipes import Compressed, compress
from probcomp.recipes.describe import machine
from probcomp.recipes.turbo_checking import AGREES, EDGES
from probcomp.recipes.turbo_reading import MISFIT, RANGES
from probcomp.storage import write_json

RESULTS = Path(__file__).parent / "results" / "compress.json"
CHECKS = RESULTS.with_name("compress_checks.json")
METHODS = ("turbo-vbi", "magnitude")
CHECKED = (
    "conditional",
    "removals",
    "temperature_of_removals",
    "removal_slope",
    "evidence_slope_of_bins",
    "measured",
    "misfit_of_ranges",
    "checked_of_ranges",
)
"""What is recorded of each seed's checks, under the names of the posterior's own record."""


def ordered(mask: torch.Tensor) -> torch.Tensor:
    """A mask with the rows in spectral order, empty ones last; columns of inner layers likewise."""
    rows = spectral_order(mask.float(), mask.any(1))
    mask = mask[rows]
    columns = spectral_order(mask.float().T, mask.any(0))
    return mask[:, columns]


def regularity_row(mask: torch.Tensor) -> dict[str, float]:
    figures = measure_regularity(mask)
    fill = {f"fill_{b.side}": b.fill for b in figures.blocks}
    return {
        "clusters": figures.clusters,
        "singletons": figures.singletons,
        "code_bits": figures.code_bits,
        **fill,
    }


def coded_row(result: Compressed, test: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """The size of the network as a file, and the accuracy of what is read back."""
    with tempfile.TemporaryDirectory() as folder:
        size = result.encode(Path(folder) / "network.pcn")
        back: nn.Module = probcomp.load(Path(folder) / "network.pcn").eval()
    inputs, targets = test
    with torch.no_grad():
        right = (back(inputs).argmax(-1) == targets).float().mean()
    return {"file_bytes": size.bytes, "file_accuracy": float(right)}


def dense_network(seed: int) -> tuple[LeNet300100, Data]:
    data = load_digits(seed=seed)
    torch.manual_seed(seed)
    model = LeNet300100(inputs=64)
    train(model, Batches(data.train, 64, seed), epochs=30, seed=seed)
    return model, data


def check_seed(seed: int, budget: str) -> dict[str, object]:
    """What the inclusion numbers of the embedded default were checked on, and what came of it."""
    model, data = dense_network(seed)
    result: Compressed = compress(
        model, data, budget=budget, method="turbo-vbi", seed=seed, progress=False
    )
    assert result.posterior is not None
    meta = result.posterior.meta
    row = {"seed": seed} | {key: meta.get(key) for key in CHECKED}
    slopes = [f"{r:.2f}" if r is not None else "-" for r in meta["evidence_slope_of_bins"]]
    misfits = [
        f"{m:.2f} on {n}" if m is not None else "-"
        for m, n in zip(meta.get("misfit_of_ranges", []), meta.get("checked_of_ranges", []))
    ]
    slope = meta["removal_slope"]
    print(
        f"seed {seed}: quadratic: {meta['removals']} removals, measured over promised "
        f"{'-' if slope is None else format(slope, '.2f')}, by evidence {' '.join(slopes)}; "
        f"measured: {meta.get('measured', 0)} weights, off by {', '.join(misfits) or '-'}: "
        f"{'conditional probabilities' if meta['conditional'] else 'scores'}",
        flush=True,
    )
    return row


def run_seed(seed: int, budget: str) -> dict[str, object]:
    model, data = dense_network(seed)
    values = {n: p.detach() for n, p in model.named_parameters()}
    row: dict[str, object] = {"seed": seed}
    for method in METHODS:
        start = time.perf_counter()
        result: Compressed = compress(
            model, data, budget=budget, method=method, seed=seed, progress=False
        )
        seconds = time.perf_counter() - start
        report = result.report
        assert report.accuracy is not None
        row[method] = {
            "dense_accuracy": report.accuracy.dense.value,
            "accuracy": report.accuracy.compressed.value,
            "difference": report.accuracy.difference.value,
            "difference_interval": [
                report.accuracy.difference.low,
                report.accuracy.difference.high,
            ],
            "dense_params": report.dense.params,
            "nonzero": report.compressed.nonzero,
            "stored": report.compressed.params,
            "dense_bytes": report.dense.bytes,
            "bytes": report.compressed.bytes,
            "latency_ratio": report.latency.ratio.value if report.latency else None,
            "seconds": seconds,
            **coded_row(result, data.test),
        }
        if method == "turbo-vbi":
            regular = {}
            for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
                ours = result.masks[name]
                largest = magnitude_mask(values[name], ours)
                regular[name] = {
                    "ours": regularity_row(ours),
                    "magnitude": regularity_row(largest),
                    "magnitude_ordered": regularity_row(ordered(largest)),
                }
            row["regularity"] = regular
    return row


def summary(rows: list[dict]) -> str:
    lines = []
    for method in METHODS:
        of = [row[method] for row in rows]
        ratio = statistics.median(r["dense_params"] / r["nonzero"] for r in of)
        stored = statistics.median(r["dense_params"] / r["stored"] for r in of)
        mean = statistics.mean(r["difference"] for r in of)
        worst = min(r["difference"] for r in of)
        lines.append(
            f"{method:10s} non-zero {ratio:5.1f}x fewer, stored {stored:4.1f}x fewer, accuracy "
            f"{100 * mean:+.2f} points on average, {100 * worst:+.2f} at worst; "
            f"{statistics.median(r['seconds'] for r in of):.0f} s; as a file "
            f"{statistics.median(r['file_bytes'] for r in of):,.0f} bytes "
            f"({statistics.median(r['dense_bytes'] / r['file_bytes'] for r in of):.0f}x), accuracy "
            f"{100 * statistics.mean(r['file_accuracy'] - r['dense_accuracy'] for r in of):+.2f}"
        )
    for name in rows[0]["regularity"]:
        for form in ("ours", "magnitude", "magnitude_ordered"):
            of = [row["regularity"][name][form] for row in rows]
            mean = {k: statistics.mean(r[k] or 0 for r in of) for k in of[0]}
            lines.append(
                f"{name:10s} {form:17s} clusters {mean['clusters']:6.0f}  fill 4x4 "
                f"{mean['fill_4']:.3f}  16x16 {mean['fill_16']:.3f}  mask code "
                f"{mean['code_bits']:6.0f} bits"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--budget", default="params=0.1")
    parser.add_argument("--checks", action="store_true", help="only the checks of the numbers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.seeds)
    record = {
        "command": f"probcomp bench compress {'--checks ' if options.checks else ''}--seed "
        f"{options.seed} --seeds {options.seeds} --budget {options.budget}",
        "machine": machine(),
        "torch": torch.__version__,
    }
    if options.checks:
        limits = {"slopes_that_pass": AGREES, "evidence_edges": EDGES}
        limits |= {"largest_misfit": MISFIT, "misfit_ranges": [str(low) for low in RANGES]}
        checks = [check_seed(seed, options.budget) for seed in seeds]
        write_json(options.out or CHECKS, record | limits | {"rows": checks})
        return
    rows = []
    for seed in seeds:
        rows.append(run_seed(seed, options.budget))
        print(f"seed {seed} done", file=sys.stderr)
    text = summary(rows)
    write_json(options.out or RESULTS, record | {"rows": rows, "summary": text.splitlines()})
    print(text)


if __name__ == "__main__":
    main()
