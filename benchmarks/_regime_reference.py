"""The reference grid of a task: many replicates of every cell, apart from all pilots."""

import csv
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _regime_many import grid_errors  # beside this file
from numpy.typing import NDArray

from probcomp.regime.tasks import load_task

RESULTS = Path(__file__).parent / "results"
REFERENCE = RESULTS / "regime_digits_reference.csv"
FIRST = 100
"""The least dense seed of the reference: those below are for pilots."""


def reference(
    seeds: Sequence[int],
    densities: Sequence[float] | None = None,
    path: Path = REFERENCE,
    source: str = "digits",
) -> dict[str, object]:
    """Retrain every level of each dense seed with two retraining seeds of its own.

    At all densities of the task ``source``, or at some: seeds differ most where few weights are
    left, so more are needed there. What the table holds already is passed over, so a killed run
    goes on where it was; a density of a seed that was killed while it was written is run again.
    """
    import torch

    torch.set_num_threads(1)
    task = load_task(source)
    wanted = list(task.densities if densities is None else densities)
    if not path.is_file():
        path.write_text(f"dense_seed,density,{task.knob},test_error\n")
    done = keep_whole(path, len(task.levels))
    began, new = time.process_time(), 0
    for seed in seeds:
        missing = [density for density in wanted if (seed, density) not in done]
        if not missing:
            continue
        errors = grid_errors(task, seed, (2 * seed, 2 * seed + 1), missing)
        lines = [
            f"{seed},{density:g},{level:g},{errors[i, j]:.6g}\n"
            for i, density in enumerate(missing)
            for j, level in enumerate(task.levels)
        ]
        with path.open("a") as stream:
            stream.write("".join(lines))
        done |= {(seed, density) for density in missing}
        new += 1
    seconds = time.process_time() - began
    found = {
        "table": path.name,
        "dense_seeds": {
            f"{density:g}": sum(at == density for _, at in done) for density in task.densities
        },
        "new": new,
    }
    return found | ({"cpu_seconds_a_new_seed": seconds / new} if new else {})


def keep_whole(path: Path, levels: int) -> set[tuple[int, float]]:
    """(dense seed, density) that have all ``levels``; lines of others are taken out of the table.

    A line without its end is cut short, so it goes too.
    """
    header, *lines = path.read_text().splitlines(keepends=True)
    lines = [line for line in lines if line.endswith("\n") and line.count(",") == header.count(",")]
    at = [(int(seed), float(load)) for seed, load, *_ in (line.split(",") for line in lines)]
    whole = {one for one, found in Counter(at).items() if found == levels}
    text = "".join([header, *(line for one, line in zip(at, lines) if one in whole)])
    if text != path.read_text():
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
    return whole


@dataclass(frozen=True)
class Replicates:
    """A reference: test errors by density, which may have more seeds here than there.

    Attributes:
        loads, levels: Densities and values of the knob.
        seeds: Dense seeds of each density, ascending.
        errors: Of each density, [levels, seeds].
    """

    loads: NDArray[np.float64]
    levels: NDArray[np.float64]
    seeds: tuple[NDArray[np.int64], ...]
    errors: tuple[NDArray[np.float64], ...]


def read_reference(path: Path = REFERENCE) -> Replicates:
    """The replicates of a table (dense seed, density, level, error); NaN where one was not run."""
    with path.open(newline="") as stream:
        _, *rows = csv.reader(stream)
    of, load, level, error = np.array(rows, float).T
    loads, levels = np.unique(load), np.unique(level)
    seeds, errors = [], []
    for value in loads:
        here = load == value
        names = np.unique(of[here])
        table = np.full((len(levels), len(names)), np.nan)
        table[levels.searchsorted(level[here]), names.searchsorted(of[here])] = error[here]
        seeds.append(names.astype(int))
        errors.append(table)
    return Replicates(loads, levels, tuple(seeds), tuple(errors))
