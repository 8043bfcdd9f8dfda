"""How much the coupling of the lattice prior clusters what is kept, at equal non-zeros.

LeNet-300-100 is compressed to 2 % of its parameters at one coupling after another, with the same
schedule. Couplings are chosen with 10,000 images of the training set held out, on which the error
is measured; with ``--part test`` all of it trains and the error is of the test set. Each finished
run is a file, so a run that was stopped goes on where it was. The first coupling of the list is
what the others are compared with: the difference of errors has an interval over the images, each
with its mean over the seeds. ``1:5`` is a coupling that rises from 1 to 5 in the rounds.

    probcomp bench coupling --couplings 0 3 5 1:5
    probcomp bench coupling --part test --couplings 0 1:5 --seeds 3
"""

import argparse
import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from _bayes_settings import BATCH_SIZE, dense, load
from torch.nn import functional as F

from probcomp.data import Batches, Data
from probcomp.evaluation import mean_interval, measure_regularity
from probcomp.inference.training import TurboConfig, fit
from probcomp.recipes.compress import removable
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json
from probcomp.structure import trace

NETWORK, TARGET, HELD_OUT = "lenet-300-100", 0.02, 10_000
SCHEDULE = {"rounds": 40, "steps": 50, "refit_steps": 3000}
DENSE_EPOCHS = 6
RESULTS = Path(__file__).parent / "results" / "coupling.json"
RUNS = Path(__file__).parents[1] / "out" / "coupling"


def parts(name: str, directory: Path, part: str = "held") -> Data:
    """A data set; its test part is the last of a shuffled training set unless ``part`` is test."""
    data = load(name, directory, False)
    if part == "test":
        return data
    x, y = data.train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    train, held = order[:-HELD_OUT], order[-HELD_OUT:]
    return Data((x[train], y[train]), (x[held], y[held]), name, data.classes)


def run(coupling: str, data: Data, seed: int, cache: Path, name: str) -> dict[str, Any]:
    """One row: the regularity of the masks, and what is misclassified."""
    *first, last = (float(value) for value in coupling.split(":"))
    start = first[0] if first else None
    model = dense(NETWORK, data, name, seed, DENSE_EPOCHS, cache)
    units = removable(trace(model, (data.train[0][:2],)), ("neuron",))
    result = fit(
        model,
        Batches(data.train, 2 * BATCH_SIZE, seed),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        units=units,
        target=TARGET,
        config=TurboConfig(coupling=last, coupling_start=start, **SCHEDULE),
        seed=seed,
    )
    figures = [(int(m.sum()), measure_regularity(m)) for m in result.masks.values()]
    nonzero = sum(count for count, _ in figures)

    def fill(figure: Any) -> float:
        return next(b.fill for b in figure.blocks if b.side == 16) or 0.0

    missed, of_dense = wrong(result.model.eval(), data.test), wrong(model, data.test)
    return {
        "coupling": coupling,
        "seed": seed,
        "schedule": SCHEDULE,
        "nonzero": nonzero,
        "units": {name: int(kept.sum()) for name, kept in result.keep.items()},
        "clusters": sum(f.clusters for _, f in figures),
        "singletons": sum(f.singletons for _, f in figures),
        "fill_16": sum(count * fill(f) for count, f in figures) / nonzero,
        "error": 100 * len(missed) / len(data.test[0]),
        "wrong": missed,
        "samples": len(data.test[0]),
        "dense_error": 100 * len(of_dense) / len(data.test[0]),
        "messages_converged": result.messages_converged,
    }


def wrong(model: torch.nn.Module, part: Any) -> list[int]:
    """Numbers of the misclassified samples."""
    x, y = part
    with torch.no_grad():
        hits = torch.cat([model(a).argmax(1) == b for a, b in zip(x.split(1000), y.split(1000))])
    return (~hits).nonzero().flatten().tolist()


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every coupling beside the first: means over the seeds that both have.

    ``error_difference`` is in percentage points with a 95 % interval over the images.
    """
    by: dict[str, dict[int, Any]] = {}
    for row in rows:
        by.setdefault(row["coupling"], {})[row["seed"]] = row
    (base, first), *others = by.items()
    found = []
    for coupling, runs in others:
        seeds = sorted(set(first) & set(runs))
        if not seeds:
            continue
        samples = first[seeds[0]]["samples"]
        points = torch.zeros(samples, dtype=torch.double)
        for seed in seeds:
            points[runs[seed]["wrong"]] += 100 / len(seeds)
            points[first[seed]["wrong"]] -= 100 / len(seeds)

        def mean(key: str, of: dict[int, Any], seeds: list[int] = seeds) -> float:
            return statistics.mean(of[seed][key] for seed in seeds)

        interval = mean_interval(points)
        found.append(
            {
                "coupling": coupling,
                "against": base,
                "seeds": seeds,
                "clusters_ratio": mean("clusters", runs) / mean("clusters", first),
                "fill_ratio": mean("fill_16", runs) / mean("fill_16", first),
                "error": [mean("error", first), mean("error", runs)],
                "error_difference": [interval.value, interval.low, interval.high],
            }
        )
    return found


def _told(arguments: list[str]) -> list[str]:
    """The arguments that made the figures; where they were written says nothing of them."""
    told = list(arguments)
    while "--out" in told:
        place = told.index("--out")
        del told[place : place + 2]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--couplings", nargs="+", default=["0", "3", "5", "1:5"], help="1:5 rises from 1 to 5")
    add("--part", choices=("held", "test"), default="held", help="what the error is measured on")
    add("--seed", type=int, default=0, help="the first of the seeds")
    add("--seeds", type=int, default=1)
    add("--data", default="mnist", help="mnist or fashion")
    add("--data-dir", type=Path, default=os.environ.get("PROBCOMP_DATA"), help="of the data sets")
    add("--runs", type=Path, default=RUNS, help="directory of dense networks and finished rows")
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = None
    rows = []
    name = f"{options.data}-held" if options.part == "held" else options.data
    length = "-".join(str(value) for value in SCHEDULE.values())
    for coupling in options.couplings:
        for seed in range(options.seed, options.seed + options.seeds):
            path = options.runs / f"{name}-{length}-{seed}-{coupling.replace(':', 'to')}.json"
            if not path.is_file():
                data = data or parts(options.data, Path(options.data_dir), options.part)
                write_json(path, run(coupling, data, seed, options.runs, name))
            rows.append(row := read_json(path))
            print(
                f"coupling {coupling:>4}, seed {seed}: {row['clusters']:5d} clusters, fill "
                f"{row['fill_16']:.3f}, error {row['error']:.2f} %, {row['nonzero']} non-zeros, "
                f"units {row['units']}",
                flush=True,
            )
    for row in compare(rows):
        low, high = row["error_difference"][1:]
        print(
            f"coupling {row['coupling']}: {row['clusters_ratio']:.2f}x clusters, "
            f"{row['fill_ratio']:.2f}x fill, {row['error_difference'][0]:+.2f} points "
            f"({low:+.2f} to {high:+.2f}) over {len(row['seeds'])} seeds"
        )
    before = read_json(options.out).get("parts", {}) if options.out.is_file() else {}
    write_json(
        options.out,
        {
            "machine": machine(),
            "torch": torch.__version__,
            "network": NETWORK,
            "target": TARGET,
            "held_out": HELD_OUT,
            "parts": before
            | {
                options.part: {
                    "command": shlex.join(["probcomp", "bench", "coupling", *_told(sys.argv[1:])]),
                    "schedule": SCHEDULE,
                    "against_first": compare(rows),
                    "rows": [{k: v for k, v in row.items() if k != "wrong"} for row in rows],
                }
            },
        },
    )


if __name__ == "__main__":
    main()
