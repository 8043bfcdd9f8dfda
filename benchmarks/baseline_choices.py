"""Settings of two baselines on held-out training images: VIBNet and spike-and-slab.

LeNet-300-100 with the schedule of ``probcomp bench bayes``, but 10,000 images of the training set
are held out; the error is theirs and no test image is read. The rule was fixed before the first
run: among the values whose error is at most 0.3 points above the dense network's, the one that
keeps the fewest weights. Each finished run is a file, so a run that was stopped goes on.

    probcomp bench baseline_choices
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from _bayes_run import error, sizes
from _bayes_settings import EPOCHS, dense, names_of, schedule
from coupling import DENSE_EPOCHS, HELD_OUT, NETWORK, parts

from probcomp.inference.baselines import SpikeSlabConfig, VIBConfig
from probcomp.recipes import compress
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "baseline_choices.json"
RUNS = Path(__file__).parents[1] / "out" / "coupling"
ALLOWED = 0.3
CHOICES: dict[str, tuple[Any, str, tuple[float, ...]]] = {
    "vibnet": (VIBConfig(), "kl_weight", (10.0, 30.0, 100.0, 300.0)),
    "spike-slab-vb": (SpikeSlabConfig(), "warm_up", (0.0, 0.2, 0.5, 0.8)),
    "spike-slab-vb, odds -7": (SpikeSlabConfig(log_odds=-7.0), "warm_up", (0.2, 0.5, 0.8)),
}


def run(method: str, value: float, data: Any, seed: int, cache: Path) -> dict[str, Any]:
    """One row: error and sizes with one value of the setting."""
    base, name, _ = CHOICES[method]
    make = schedule(dataclasses.replace(base, **{name: value}))
    config = make(EPOCHS[NETWORK].method, len(data.train[0]))
    model = dense(NETWORK, data, "mnist-held", seed, DENSE_EPOCHS, cache)
    result = compress(
        model,
        data,
        budget=None,
        method=names_of(method),
        seed=seed,
        config=config,
        progress=False,
    )
    return {
        "method": method,
        "setting": name,
        "value": value,
        "seed": seed,
        "error": error(result.model.eval(), data.test),
        "dense_error": error(model, data.test),
        **sizes(NETWORK, model, result, data),
    }


def chosen(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Value of each method by the rule above."""
    found = {}
    for method in {row["method"]: None for row in rows}:
        fine = [
            row
            for row in rows
            if row["method"] == method and row["error"] <= row["dense_error"] + ALLOWED
        ]
        if fine:
            found[method] = min(fine, key=lambda row: row["nonzero"])["value"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--methods", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    add("--values", nargs="+", type=float, help="instead of the method's own list")
    add("--seed", type=int, default=0)
    add("--data-dir", type=Path, default=os.environ.get("PROBCOMP_DATA"), help="of the data sets")
    add("--runs", type=Path, default=RUNS, help="directory of dense networks and finished rows")
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = None
    rows = []
    for method in options.methods:
        for value in options.values or CHOICES[method][2]:
            length = f"{EPOCHS[NETWORK].method}-{HELD_OUT}"
            path = options.runs / f"choice-{method}-{value:g}-{length}-{options.seed}.json"
            if not path.is_file():
                data = data or parts("mnist", Path(options.data_dir))
                write_json(path, run(method, value, data, options.seed, options.runs))
            rows.append(row := read_json(path))
            print(
                f"{method} {row['setting']} {value:g}: {row['error']:.2f} % (dense "
                f"{row['dense_error']:.2f}), {row['sizes']}, {row['nonzero']} non-zeros",
                flush=True,
            )
    write_json(
        options.out,
        {
            "command": "probcomp bench baseline_choices",
            "machine": machine(),
            "torch": torch.__version__,
            "network": NETWORK,
            "held_out": HELD_OUT,
            "allowed_points": ALLOWED,
            "chosen": chosen(rows),
            "rows": rows,
        },
    )
    print("chosen:", chosen(rows))


if __name__ == "__main__":
    main()
