"""The run table: one row per retrained model or cell, read from any source and checked once."""

import csv
import gzip
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from probcomp.errors import InputError, unknown
from probcomp.regime.checks import check_apart, check_directions, check_enough
from probcomp.regime.knobs import KNOWN, Array, Knob, folded, known_name, parse_knob

REMOVED = ("sparsity", "p_ratio", "prune_ratio", "pruning_ratio")
LOADS = ("density", *REMOVED, "load", "width", "params", "para_amount")
ERRORS = (
    *("test_error", "test_error_refined", "test_err", "retrain_test_err"),
    *("val_error", "val_err", "error", "err"),
)
ACCURACIES = (*("test_acc", "test_accuracy", "val_acc", "val_accuracy", "accuracy", "acc", "top1"),)
CONNECTIVITIES = (
    *("lmc", "lmc_barrier", "lmc_trerr", "connectivity"),
    *("mode_connectivity", "mode_conn_train", "mc"),
)
SIMILARITIES = ("cka", "cka_softmax", "cka_last", "similarity")
SEEDS = ("dense_seed", "seed")
TASKS = (
    *("task", "dataset", "data", "data_amount", "data_share", "label_noise"),
    *("arch", "architecture", "network", "model", "method", "prune"),
)
"""Columns that tell tasks apart: runs that differ in one of them are no repeats of each other."""

PER_CENT = 2.0
"""A density or sparsity above this is one in per cent; one between 1 and this is a mistake."""

LARGE = 0.5
"""An error above this, in a column with none above 1, may be one in per cent: that is noted."""

ROUNDED = 1e-3
"""By how much a similarity may exceed 1."""


@dataclass(frozen=True)
class RunTable:
    """Checked runs.

    Attributes:
        knobs: The temperature-like knobs.
        settings: Their values, [rows, knobs].
        load: Density, width or number of weights, [rows]; sparsity is turned into density.
        load_name: What the load is called.
        error: Test error after pruning and retraining, as a fraction, [rows].
        connectivity: Mode connectivity in train error, as a fraction; negative at a barrier.
        similarity: CKA of the outputs, at most one, [rows].
        cost: Seconds of each run where the table tells, else NaN, [rows].
        notes: What was assumed when the table was read, one sentence each.
        measured: Standard errors of error, connectivity and similarity (fractions), where the
            table has columns of them (``test_error_se``, ``lmc_se``, ``cka_se``), else zero,
            [rows, 3].
        seed: Index of the (dense) seed of each row where the table tells, [rows].
    """

    knobs: tuple[Knob, ...]
    settings: Array
    load: Array
    load_name: str
    error: Array
    connectivity: Array
    similarity: Array
    cost: Array
    measured: Array
    notes: tuple[str, ...] = ()
    seed: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.error)

    @property
    def cells(self) -> NDArray[np.int64]:
        """Index of the (settings, load) of each row; rows that share one are replicates."""
        rows = np.column_stack([self.settings, self.load])
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    def take(self, rows: Any) -> "RunTable":
        """The rows of an index or a mask, without checking that they suffice for a fit."""
        names = ("settings", "load", "error", "connectivity", "similarity", "cost", "measured")
        taken = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **taken, seed=None if self.seed is None else self.seed[rows])

    def knob(self, name: str | None = None) -> int:
        """Position of a knob by name; the first one without a name."""
        names = [knob.name for knob in self.knobs]
        if name is None:
            return 0
        if name in names:
            return names.index(name)
        raise InputError(f"no knob {name!r} in these runs; there are: {', '.join(names)}.")


def read_runs(
    source: "RunTable | Mapping[str, Any] | Path | str",
    *,
    knobs: Sequence[str | Knob] | None = None,
    load: str | None = None,
    where: Mapping[str, Any] | None = None,
    check: bool = True,
) -> RunTable:
    """Read and check runs.

    Args:
        source: A CSV file (``.gz`` and ``.xz`` too), a mapping from column to values (a data frame
            is one), or a table already read.
        knobs: Columns that act as temperature, ``"name"`` ``"name:up"`` or ``"name:down"``.
            Without it, every known knob whose value varies.
        load: The load column: density, sparsity, width or number of weights.
        where: Values of columns; rows with others are left out. For a table of several tasks.
        check: False to take rows as they are, without the tests of what a fit needs.

    Errors, connectivities, densities and sparsities above 1 in size are read as per cent, otherwise
    as fractions, and ``notes`` says which.

    Raises:
        InputError: one line naming what is missing or wrong, and the least that is needed.
    """
    if isinstance(source, RunTable):
        table = source
    else:
        if isinstance(source, str | Path):
            columns: Mapping[str, Any] = _read_csv(Path(source))
        else:
            columns = source
        table = _from_columns(_rows_where(columns, where or {}), knobs, load)
        table = _without_copies(table) if check else table
    if check:
        check_enough(table)
        check_apart(table)
        table = replace(table, notes=table.notes + check_directions(table))
    return table


def _without_copies(table: RunTable) -> RunTable:
    """Rows that equal an earlier one in all that was measured are that run again, no repeat of it.

    Taken for repeats they would say that seeds make no difference.
    """
    seen = (table.settings, table.load, table.error, table.connectivity, table.similarity)
    first = np.unique(np.column_stack(seen), axis=0, return_index=True)[1]
    if len(first) == len(table):
        return table
    note = f"{len(table) - len(first)} rows equal another in every digit and were left out."
    return replace(table.take(np.sort(first)), notes=(*table.notes, note))


def _rows_where(columns: Mapping[str, Any], where: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rows in which every named column has its value, compared as numbers where both are."""
    for name, value in where.items():
        if name not in columns:
            raise unknown("column", name, map(str, columns))
        keep = [_same(entry, value) for entry in columns[name]]
        if not any(keep):
            seen = ", ".join(dict.fromkeys(map(str, columns[name])))
            raise InputError(f"no run has {name} {value}; there are: {shorten(seen, 80)}.")
        columns = {
            str(column): [entry for entry, kept in zip(columns[column], keep) if kept]
            for column in columns
        }
    return columns


def _same(entry: Any, value: Any) -> bool:
    try:
        return float(entry) == float(value)
    except (TypeError, ValueError):
        return str(entry).strip() == str(value).strip()


def _refuse_tasks(columns: Mapping[str, Any], used: Sequence[str]) -> None:
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


def _from_columns(
    columns: Mapping[str, Any], knobs: Sequence[str | Knob] | None, load: str | None
) -> RunTable:
    names = [str(name) for name in columns]
    lengths = {str(name): len(list(columns[name])) for name in columns}
    if len(set(lengths.values())) > 1:
        least, most = (pick(lengths, key=lambda n: lengths[n]) for pick in (min, max))
        raise InputError(
            f"columns differ in length: {least!r} has {lengths[least]} rows, {most!r} "
            f"{lengths[most]}."
        )
    spelt = {folded(name): name for name in names}

    def pick(what: str, candidates: Sequence[str]) -> str | None:
        return next((spelt[name] for name in candidates if name in spelt), None)

    found = {
        "a load": load if load in names else pick("load", LOADS),
        "test_error": pick("error", ERRORS) or pick("accuracy", ACCURACIES),
        "lmc (mode connectivity)": pick("connectivity", CONNECTIVITIES),
        "cka (output similarity)": pick("similarity", SIMILARITIES),
    }
    if load is not None and load not in names:
        raise InputError(f"no load column {load!r}; the table has: {', '.join(names)}.")
    auto = [name for name in names if known_name(name) in KNOWN]
    if not knobs and not auto:
        found["a knob"] = None
    missing = [what for what, column in found.items() if column is None]
    if missing:
        raise InputError(
            f"missing column{'s' * (len(missing) > 1)}: {'; '.join(missing)}. Least needed: one "
            f"knob ({', '.join(sorted(KNOWN))}, or another named as NAME:up or NAME:down), one "
            f"load (density, sparsity, width, params), test_error, lmc, cka "
            f"(probcomp.regime.linear_connectivity and cka measure these two). The table has: "
            f"{', '.join(names) or 'no columns'}."
        )
    chosen = [parse_knob(knob, names) for knob in (knobs or _once(auto, columns))]
    _refuse_tasks(columns, [knob.name for knob in chosen] + [str(v) for v in found.values()])
    values = {knob.name: _numbers(columns[knob.name], knob.name) for knob in chosen}
    for knob in chosen:
        knob.check(values[knob.name])
    chosen = _varying(chosen, values, named=bool(knobs))
    load_column, error_column, lmc_column, cka_column = (str(column) for column in found.values())
    notes: list[str] = []
    loads, load_name = _load(columns, load_column, notes)
    error = _fraction(columns, error_column, notes)
    if folded(error_column) in ACCURACIES:
        error = 1 - error
    lmc = _fraction(columns, lmc_column, notes)
    cka = _numbers(columns[cka_column], cka_column)
    cka = np.where((cka > 1) & (cka <= 1 + ROUNDED), 1.0, cka)
    for name, v, low in (
        (error_column, error, 0.0),
        (lmc_column, lmc, -1.0),
        (cka_column, cka, 0.0),
    ):
        if v.min() < low or v.max() > 1:
            raise InputError(f"{name} runs from {v.min():g} to {v.max():g}; expected {low:g} to 1.")
    cost = (
        _numbers(columns["wall_s"], "wall_s") if "wall_s" in names else np.full(len(error), np.nan)
    )
    settings = np.column_stack([values[knob.name] for knob in chosen])
    measured = _standard_errors(columns, (error_column, lmc_column, cka_column))
    return RunTable(
        tuple(chosen), settings, loads, load_name, error, lmc, cka, cost, measured, tuple(notes),
        _seeds(columns, pick("seed", SEEDS)),
    )  # fmt: skip


def _seeds(columns: Mapping[str, Any], name: str | None) -> NDArray[np.int64] | None:
    """Index of each row's seed by its label; None where there is no such column."""
    if name is None:
        return None
    labels = [str(label).strip() for label in columns[name]]
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _once(auto: Sequence[str], columns: Mapping[str, Any]) -> list[str]:
    """Knobs found by name, without a second spelling of one that is there with the same values."""
    out: list[str] = []
    for name in auto:
        same = [kept for kept in out if known_name(kept) == known_name(name)]
        if not any(list(columns[kept]) == list(columns[name]) for kept in same):
            out.append(name)
    return out


def _load(columns: Mapping[str, Any], name: str, notes: list[str]) -> tuple[Array, str]:
    """Loads, and what they are called; a share that was removed is turned into one kept."""
    values, kind = _numbers(columns[name], name), folded(name)
    removed = kind in REMOVED
    share = removed or kind == "density"
    if share and PER_CENT < values.max() <= 100:
        if not removed and 0 < values.min() < 1 and values.max() > 100 * values.min():
            raise InputError(
                f"{name} runs from {values.min():g} to {values.max():g}: some in per cent, others "
                "not? Give all as shares between 0 and 1."
            )
        notes.append(f"{name} was read as per cent.")
        values = values / 100
    kept = 1 - values if removed else values
    if not np.all((kept > 0) & (kept <= (1 if share else np.inf))):
        ends = "[0, 1)" if removed else "(0, 1]" if share else "(0, inf]"
        raise InputError(f"{name} must lie in {ends}; got {values.min():g} to {values.max():g}.")
    if removed:
        notes.append(f"{name} was turned into density = 1 - {name}.")
    return kept, "density" if removed else name


def _standard_errors(columns: Mapping[str, Any], names: Sequence[str]) -> Array:
    """Columns ``NAME_se`` on the scale of the column NAME, [rows, 3]; zero where there is none."""
    out = []
    for name in names:
        measured, column = _numbers(columns[name], name), f"{name}_se"
        values = _numbers(columns[column], column) if column in columns else 0 * measured
        if values.min() < 0:
            raise InputError(f"{column} is a standard error; it has a value below zero.")
        out.append(values / 100 if np.max(np.abs(measured)) > 1 else values)
    return np.column_stack(out)


def _varying(chosen: list[Knob], values: Mapping[str, Array], *, named: bool) -> list[Knob]:
    """Drop knobs found by name that never move; refuse them where the user asked for them."""
    constant = [knob.name for knob in chosen if np.ptp(values[knob.name]) == 0]
    moving = [knob for knob in chosen if knob.name not in constant]
    if constant and (named or not moving):
        raise InputError(
            f"knob {constant[0]!r} is constant at {values[constant[0]][0]:g}; "
            "runs at two or more settings are needed (three or more to find the best one)."
        )
    return moving


def _fraction(columns: Mapping[str, Any], name: str, notes: list[str]) -> Array:
    values = _numbers(columns[name], name)
    if np.max(np.abs(values), initial=0.0) <= 1:
        if folded(name) in ERRORS and values.max() > LARGE:
            notes.append(
                f"{name} was read as a share of 1 ({values.min():.0%} to {values.max():.0%} "
                "wrong); were it in per cent, divide it by 100."
            )
        return values
    notes.append(f"{name} was read as per cent.")
    return values / 100


def _numbers(values: Any, name: str) -> Array:
    raw = list(values)
    if not raw:
        raise InputError(f"column {name!r} is empty: the table has no rows.")
    out = np.empty(len(raw))
    for row, value in enumerate(raw):
        try:
            out[row] = _number(value)
        except (TypeError, ValueError):
            comma = "; decimals need a point" if isinstance(value, str) and "," in value else ""
            raise InputError(
                f"column {name!r}, row {row + 1}: {value!r} is not a number{comma}."
            ) from None
    bad = np.flatnonzero(~np.isfinite(out))
    if bad.size:
        rows = ", ".join(str(row + 1) for row in bad[:5]) + (", ..." if bad.size > 5 else "")
        raise InputError(
            f"column {name!r} has {bad.size} missing or non-finite value(s), in row {rows}; "
            "leave such runs out of the table."
        )
    return out


def _number(value: Any) -> float:
    """A cell of a table: ``5%`` is 0.05, a blank NaN."""
    if value is None or value == "":
        return float("nan")
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return float(value)


def _read_csv(path: Path) -> dict[str, list[str]]:
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(path.suffix, open)
    try:
        stream: IO[str]
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:  # with or without mark
            reader = csv.reader(stream)
            numbered = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except (OSError, lzma.LZMAError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not numbered:
        raise InputError(f"{path} is empty; it needs a header line and one line a run.")
    header = [name.strip() for name in numbered[0][1]]
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(line)} values for {len(header)} columns."
            )
    return {name: [line[i] for _, line in numbered[1:]] for i, name in enumerate(header)}
