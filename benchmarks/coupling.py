"""How much the coupling of the lattice prior clusters what is kept, at equal non-zeros.

LeNet-300-100 is compressed to 2 % of its parameters at one coupling after another; 10,000 images of
the training set are held out, and the error is of those. A short schedule: the couplings are
compared with each other and not with other methods. Each finished run is a file, so a run that was
stopped goes on where it was.

    probcomp bench coupling --couplings 0 1 2 3 4 6
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from _bayes_run import error
from _bayes_settings import BATCH_SIZE, dense, load
from torch.nn import functional as F

from probcomp.data import Batches, Data
from probcomp.evaluation import measure_regularity
from probcomp.inference.training import TurboConfig, fit
from probcomp.recipes.compress import removable
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json
from probcomp.structure import trace

NETWORK, TARGET, HELD_OUT = "lenet-300-100", 0.02, 10_000
SCHEDULE = {"rounds": 24, "steps": 50, "refit_steps": 400}
RESULTS = Path(__file__).parent / "results" / "coupling.json"
RUNS = Path(__file__).parents[1] / "out" / "coupling"


def parts(name: str, directory: Path) -> Data:
    """A data set with the last of a shuffled training set held out as its test part."""
    data = load(name, directory, False)
    x, y = data.train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    train, held = order[:-HELD_OUT], order[-HELD_OUT:]
    return Data((x[train], y[train]), (x[held], y[held]), name, data.classes)


def run(coupling: float, data: Data, seed: int, cache: Path) -> dict[str, Any]:
    """One row: the regularity of the masks and the held-out error."""
    model = dense(NETWORK, data, f"{data.name}-held", seed, 6, cache)
    units = removable(trace(model, (data.train[0][:2],)), ("neuron",))
    result = fit(
        model,
        Batches(data.train, 2 * BATCH_SIZE, seed),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        units=units,
        target=TARGET,
        config=TurboConfig(coupling=coupling, **SCHEDULE),
        seed=seed,
    )
    figures = [(int(m.sum()), measure_regularity(m)) for m in result.masks.values()]
    nonzero = sum(count for count, _ in figures)

    def fill(figure: Any) -> float:
        return next(b.fill for b in figure.blocks if b.side == 16) or 0.0

    return {
        "coupling": coupling,
        "seed": seed,
        "nonzero": nonzero,
        "units": {name: int(kept.sum()) for name, kept in result.keep.items()},
        "clusters": sum(f.clusters for _, f in figures),
        "singletons": sum(f.singletons for _, f in figures),
        "fill_16": sum(count * fill(f) for count, f in figures) / nonzero,
        "error": error(result.model.eval(), data.test),
        "dense_error": error(model, data.test),
        "messages_converged": result.messages_converged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--couplings", nargs="+", type=float, default=[0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    add("--seed", type=int, default=0)
    add("--data", default="mnist", help="mnist or fashion")
    add("--data-dir", type=Path, default=os.environ.get("PROBCOMP_DATA"), help="of the data sets")
    add("--runs", type=Path, default=RUNS, help="directory of dense networks and finished rows")
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = None
    rows = []
    for coupling in options.couplings:
        path = options.runs / f"{options.data}-{options.seed}-{coupling:g}.json"
        if not path.is_file():
            data = data or parts(options.data, Path(options.data_dir))
            write_json(path, run(coupling, data, options.seed, options.runs))
        rows.append(read_json(path))
        row = rows[-1]
        print(
            f"coupling {coupling:4g}: {row['clusters']:5d} clusters, fill {row['fill_16']:.3f}, "
            f"error {row['error']:.2f} %, {row['nonzero']} non-zeros, units {row['units']}",
            flush=True,
        )
    write_json(
        options.out,
        {
            "command": "probcomp bench coupling " + " ".join(sys.argv[1:]),
            "machine": machine(),
            "torch": torch.__version__,
            "network": NETWORK,
            "target": TARGET,
            "held_out": HELD_OUT,
            "schedule": SCHEDULE,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
