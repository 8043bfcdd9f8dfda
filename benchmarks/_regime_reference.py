"""The reference grid of the digits task: many replicates of every cell, apart from all pilots."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _regime_many import grid_errors  # beside this file
from numpy.typing import NDArray

from probcomp.regime.tasks import load_task

RESULTS = Path(__file__).parent / "results"
REFERENCE = RESULTS / "regime_digits_reference.csv"
HEADER = ("dense_seed", "density", "epochs", "test_error")
FIRST = 100
"""The least dense seed of the reference: those below are for pilots."""


def reference(seeds: Sequence[int], path: Path = REFERENCE) -> dict[str, object]:
    """Retrain every cell of each dense seed with two retraining seeds of its own.

    Seeds that the table holds already are passed over, so a killed run goes on where it was.
    """
    import torch

    torch.set_num_threads(1)
    task = load_task("digits")
    done = set(read_reference(path)[0].tolist()) if path.is_file() else set()
    if not path.is_file():
        path.write_text(",".join(HEADER) + "\n")
    began, new = time.process_time(), [seed for seed in seeds if seed not in done]
    for seed in new:
        errors = grid_errors(task, seed, (2 * seed, 2 * seed + 1))
        lines = [
            f"{seed},{density:g},{level:g},{errors[i, j]:.6g}\n"
            for i, density in enumerate(task.densities)
            for j, level in enumerate(task.levels)
        ]
        with path.open("a") as stream:  # a seed at once, so that none is half there
            stream.write("".join(lines))
    seconds = time.process_time() - began
    found = {"table": path.name, "dense_seeds": sorted(done | set(seeds)), "new": len(new)}
    return found | ({"cpu_seconds_a_new_seed": seconds / len(new)} if new else {})


def read_reference(
    path: Path = REFERENCE,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Dense seeds, densities, epochs, and errors [densities, levels, seeds]; NaN where not run."""
    with path.open(newline="") as stream:
        rows = [[float(row[name]) for name in HEADER] for row in csv.DictReader(stream)]
    of, load, level, error = np.array(rows).T
    names, loads, levels = (np.unique(values) for values in (of, load, level))
    errors = np.full((len(loads), len(levels), len(names)), np.nan)
    at = (loads.searchsorted(load), levels.searchsorted(level), names.searchsorted(of))
    errors[at] = error
    return names.astype(int), loads, levels, errors
