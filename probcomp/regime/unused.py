"""Columns that are neither knob nor load nor measured: whether runs that differ there are repeats.

Runs that agree in knobs and load are taken for repeats of each other, so their spread for luck.
Where none agree, what was set beside them passes for an effect of the knobs or the load.
"""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probcomp.errors import InputError
from probcomp.regime.columns import LOADS
from probcomp.regime.knobs import KNOWN, folded, known_name

TASKS = (
    *("task", "dataset", "data", "data_amount", "data_share", "label_noise"),
    *("arch", "architecture", "network", "model", "method", "prune"),
)
"""Columns that tell tasks apart: runs that differ in one of them are no repeats of each other."""

NO_SETTING = {
    *("seed", "rep", "repeat", "replicate", "trial", "run", "id", "name", "index", "fold"),
    *("time", "date", "wall", "seconds", "se", "realised", "host", "gpu"),
    *("error", "err", "acc", "accuracy", "loss", "lmc", "cka", "agreement", "similarity"),
}
"""Words in names of columns that label runs, or that were measured."""

SAME_LOAD = 0.1
"""Loads that differ by less than this share are one that was counted, not set."""


def refuse_tasks(columns: Mapping[str, Any], used: Sequence[str]) -> None:
    """Refuse runs of several tasks: taken together they would pass for repeats of each other."""
    for name in columns:
        if folded(str(name)) not in TASKS or name in used:
            continue
        values = list(dict.fromkeys(str(value).strip() for value in columns[name]))
        if 1 < len(values) < len(columns[name]):  # as many as rows: labels of the runs
            shown = ", ".join(value or "(blank)" for value in values)
            raise InputError(
                f"column {name!r} has {len(values)} values ({shorten(shown, 40)}): runs of several "
                f"tasks; choose one, as in {name}={values[0]} (where=, or --where of the command), "
                "fit them side by side with probcomp.regime.Hierarchy, or leave the column out if "
                "it tells no tasks apart."
            )


def check_repeats(
    columns: Mapping[str, Any],
    used: Sequence[str],
    cells: NDArray[np.int64],
    load_name: str,
    turned: Sequence[str] = (),
) -> tuple[str, ...]:
    """Refuse a second load; note settings in which runs of one cell, or runs of no cell, differ.

    Args:
        columns: Values by column; used: the columns that are knobs, load or measured.
        cells: Cell of each row, [rows].
        turned: The columns that are knobs or load.

    Raises:
        InputError: where runs of one cell differ in another of `LOADS`.
    """
    noted = []
    for name in (str(name) for name in columns if str(name) not in used):
        if folded(name) in LOADS and _differ(columns[name], cells, SAME_LOAD):
            values = list(dict.fromkeys(str(value).strip() for value in columns[name]))
            raise InputError(
                f"column {name!r} has {len(values)} values ({shorten(', '.join(values), 40)}) and "
                f"is a second load beside {load_name}; choose one, as in {name}={values[0]} "
                "(where=, or --where of the command), or leave the column out."
            )
        if _is_setting(name, columns[name], cells) and _differ(columns[name], cells):
            noted.append(repr(name))
    choose = "choose some with where= (--where of the command), or name it as a knob."
    if noted:
        return (
            f"runs of one setting differ in {' and '.join(noted)} and are taken for repeats of "
            f"each other; {choose}",
        )
    if np.bincount(cells).max() > 1:
        return ()
    beside = [
        repr(name)
        for name in map(str, columns)
        if name not in used and _beside(name, columns, turned)
    ]
    if not beside:
        return ()
    return (
        f"runs differ in {' and '.join(beside)}, neither knob nor load: if that was set, what it "
        f"does is taken for what they do; {choose}",
    )


def _beside(name: str, columns: Mapping[str, Any], turned: Sequence[str]) -> bool:
    """Whether a column may have been set, in a table in which no two runs share a cell.

    A knob that was left out, words, or few numbers that follow neither knob nor load.
    """
    values = [str(value).strip() for value in columns[name]]
    different = len(set(values))
    if different < 2:
        return False
    if known_name(name) in KNOWN:
        return not _follows(values, columns, turned)
    if NO_SETTING & set(folded(name).split("_")):
        return False
    if _as_numbers(columns[name]) is None:
        return different <= len(values) // 2
    return different <= len(values) // 4 and not _follows(values, columns, turned)


def _follows(values: Sequence[str], columns: Mapping[str, Any], turned: Sequence[str]) -> bool:
    """Whether a column is a function of one of the columns ``turned``."""
    return any(
        len(set(zip(map(str, columns[name]), values))) == len(set(map(str, columns[name])))
        for name in turned
    )


def _is_setting(name: str, values: Any, cells: NDArray[np.int64]) -> bool:
    """Whether a column may have been set: a knob, words, or few numbers, no label of each row."""
    if known_name(name) in KNOWN:
        return True
    if NO_SETTING & set(folded(name).split("_")):
        return False
    different = len({str(value).strip() for value in values})
    if _as_numbers(values) is None:
        return different < len(cells)
    # What was measured has other values in other cells; what was set has as many as were tried.
    return different <= np.bincount(cells).max()


def _differ(values: Any, cells: NDArray[np.int64], share: float = 0.0) -> bool:
    """Whether runs of any cell differ, numbers by more than a share of the larger."""
    numbers = _as_numbers(values)
    if numbers is None:
        numbers = np.unique([str(x).strip() for x in values], return_inverse=True)[1].astype(float)
        share = 0.0
    low, high = np.full((2, cells.max() + 1), [[np.inf], [-np.inf]])
    np.minimum.at(low, cells, numbers)
    np.maximum.at(high, cells, numbers)
    return bool(np.any(high - low > share * np.abs(high)))


def _as_numbers(values: Any) -> NDArray[np.float64] | None:
    try:
        return np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return None
