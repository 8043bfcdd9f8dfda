"""The reference grid of the digits task: many replicates of every cell, apart from all pilots."""

import csv
import time
from collections import Counter
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

    Seeds that the table holds already are passed over, so a killed run goes on where it was; one
    that was killed while it was written is run again.
    """
    import torch

    torch.set_num_threads(1)
    task = load_task("digits")
    if not path.is_file():
        path.write_text(",".join(HEADER) + "\n")
    done = keep_whole(path, len(task.densities) * len(task.levels))
    began, new = time.process_time(), [seed for seed in seeds if seed not in done]
    for seed in new:
        errors = grid_errors(task, seed, (2 * seed, 2 * seed + 1))
        lines = [
            f"{seed},{density:g},{level:g},{errors[i, j]:.6g}\n"
            for i, density in enumerate(task.densities)
            for j, level in enumerate(task.levels)
        ]
        with path.open("a") as stream:
            stream.write("".join(lines))
    seconds = time.process_time() - began
    found = {"table": path.name, "dense_seeds": sorted(done | set(seeds)), "new": len(new)}
    return found | ({"cpu_seconds_a_new_seed": seconds / len(new)} if new else {})


def keep_whole(path: Path, cells: int) -> set[int]:
    """Dense seeds of which all ``cells`` are there; lines of others are taken out of the table."""
    header, *lines = path.read_text().splitlines(keepends=True)
    lines = [line for line in lines if line.endswith("\n") and line.count(",") == len(HEADER) - 1]
    count = Counter(int(line.split(",")[0]) for line in lines)
    whole = {seed for seed, found in count.items() if found == cells}
    text = "".join([header, *(line for line in lines if int(line.split(",")[0]) in whole)])
    if text != path.read_text():
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
    return whole


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
