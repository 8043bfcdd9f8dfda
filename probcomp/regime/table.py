"""The run table: one row per retrained model or cell, read from any source and checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probcomp.errors import InputError
from probcomp.regime.checks import check_apart, check_directions, check_enough
from probcomp.regime.columns import (
    ACCURACIES,
    CONNECTIVITIES,
    ERRORS,
    LOADS,
    REMOVED,
    SEEDS,
    SIMILARITIES,
    Columns,
    fraction,
    in_per_cent,
    numbers,
    read_csv,
    rows_where,
)
from probcomp.regime.knobs import KNOWN, Array, Knob, folded, known_name, parse_knob
from probcomp.regime.unused import check_repeats, refuse_tasks

PER_CENT = 2.0
"""A density or sparsity above this is one in per cent; one between 1 and this is a mistake."""

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
    also: Sequence[str | Knob] = (),
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
        also: Knobs beside those found by name.
        load: The load column: density, sparsity, width or number of weights.
        where: Values of columns; rows with others are left out. For a table of several tasks.
            ``{"NAME!": value}`` leaves out rows with that value, ``{"NAME!": ""}`` blank ones.
        check: False to take rows as they are, without the tests of what a fit needs.

    Errors, connectivities, densities and sparsities above 1 in size are read as per cent, otherwise
    as fractions, and ``notes`` says which.

    Raises:
        InputError: one line naming what is missing or wrong, and the least that is needed.
    """
    if isinstance(source, RunTable):
        table = source
    else:
        read = read_csv(Path(source)) if isinstance(source, str | Path) else Columns(source)
        columns = rows_where(read, where or {})
        table = _from_columns(columns, knobs, also, load)
        table = _without_copies(table, columns) if check else table
    if check:
        check_enough(table)
        notes = (*table.notes, *check_apart(table), *check_directions(table))
        table = replace(table, notes=tuple(dict.fromkeys(notes)))  # a table may be read twice
    return table


def _without_copies(table: RunTable, columns: Mapping[str, Any]) -> RunTable:
    """Rows that equal an earlier one in all that was measured are that run again, no repeat of it.

    Taken for repeats they would say that seeds make no difference. Where seeds are told, rows of
    two of them are two runs: few digits, or a flat collection, may well make them equal.
    """
    seeds = [_labels(values) for name, values in columns.items() if folded(name).endswith("seed")]
    seen = (table.settings, table.load, table.error, table.connectivity, table.similarity, *seeds)
    first = np.unique(np.column_stack(seen), axis=0, return_index=True)[1]
    if len(first) == len(table):
        return table
    note = f"{len(table) - len(first)} rows equal another in every digit and were left out."
    return replace(table.take(np.sort(first)), notes=(*table.notes, note))


def _from_columns(
    columns: Columns,
    knobs: Sequence[str | Knob] | None,
    also: Sequence[str | Knob],
    load: str | None,
) -> RunTable:
    names = list(columns)
    lengths = {name: len(values) for name, values in columns.items()}
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
        "a load": load if load in names else _load_column(columns, spelt),
        "test_error": pick("error", ERRORS) or pick("accuracy", ACCURACIES),
        "lmc (mode connectivity)": pick("connectivity", CONNECTIVITIES),
        "cka (output similarity)": pick("similarity", SIMILARITIES),
    }
    if load is not None and load not in names:
        raise InputError(f"no load column {load!r}; the table has: {', '.join(names)}.")
    auto = [name for name in names if known_name(name) in KNOWN and name != load]
    if not (knobs or also or auto):
        found["a knob"] = None
    missing = [what for what, column in found.items() if column is None]
    if missing:
        raise InputError(
            f"missing column{'s' * (len(missing) > 1)}: {'; '.join(missing)}. Least needed: one "
            f"knob ({', '.join(sorted(KNOWN))}, or another named as NAME:up or NAME:down), one "
            "load (density, sparsity, width, params, or another named with load=, --load of the "
            "command), test_error, lmc, cka (linear_connectivity and cka of "
            "probcomp.regime.landscape measure these two). The table has: "
            f"{', '.join(names) or 'no columns'}."
        )
    named = [parse_knob(knob, names) for knob in (*(knobs or ()), *also)]
    asked = [knob.name for knob in named]
    by_name = [] if knobs else _once([*asked, *auto], columns)
    chosen = named + [parse_knob(name, names) for name in by_name if name not in asked]
    taken = {str(column): what for what, column in found.items()}
    for knob in chosen:
        if knob.name in taken:
            raise InputError(
                f"column {knob.name!r} is read as {taken[knob.name]} and can be no knob; name what "
                "training was turned by: "
                f"{', '.join(n for n in names if n not in taken) or 'no column is left'}."
            )
    used = [knob.name for knob in chosen] + list(taken)
    for name in names:
        if name != spelt[folded(name)] in used:
            raise InputError(f"columns {name!r} and {spelt[folded(name)]!r} are one; drop either.")
    refuse_tasks(columns, used)
    values = {knob.name: numbers(columns, knob.name) for knob in chosen}
    chosen = _varying(chosen, values, asked)
    for knob in chosen:
        try:
            knob.check(values[knob.name])
        except InputError as refused:
            raise InputError(f"{refused} Leave such runs out, or the column.") from None
    load_column, error_column, lmc_column, cka_column = (str(column) for column in found.values())
    notes = list(columns.notes)
    loads, load_name = _load(columns, load_column, notes)
    raw_error, raw_lmc = (numbers(columns, name) for name in (error_column, lmc_column))
    error = fraction(raw_error, error_column, notes)
    if folded(error_column) in ACCURACIES:
        error = 1 - error
    lmc = fraction(raw_lmc, lmc_column, notes)
    if in_per_cent(raw_error) and not in_per_cent(raw_lmc) and lmc.min() < 0:
        notes.append(
            f"{lmc_column} was read as a share of 1 (barriers up to {-lmc.min():.2g}), though "
            f"{error_column} is in per cent; were it in per cent too, divide it by 100."
        )
    cka = numbers(columns, cka_column)
    cka = np.where((cka > 1) & (cka <= 1 + ROUNDED), 1.0, cka)
    for name, v, low, high in (
        (error_column, raw_error, 0.0, 100.0 if in_per_cent(raw_error) else 1.0),
        (lmc_column, raw_lmc, *((-100.0, 100.0) if in_per_cent(raw_lmc) else (-1.0, 1.0))),
        (cka_column, cka, 0.0, 1.0),
    ):
        if v.min() < low or v.max() > high:
            raise InputError(
                f"{name} runs from {v.min():g} to {v.max():g}; expected {low:g} to {high:g}."
            )
    cost = np.full(len(error), np.nan)
    if "wall_s" in names:
        cost = numbers(columns, "wall_s", blanks=True)
    settings = np.column_stack([values[knob.name] for knob in chosen])
    measured = _standard_errors(columns, (error_column, lmc_column, cka_column), notes)
    seeds = pick("seed", SEEDS)
    table = RunTable(
        tuple(chosen), settings, loads, load_name, error, lmc, cka, cost, measured, tuple(notes),
        None if seeds is None else _labels(columns[seeds]),
    )  # fmt: skip
    turned = [load_column, *(knob.name for knob in chosen)]
    said = check_repeats(columns, used, table.cells, load_name, turned)
    return replace(table, notes=(*notes, *said))


def _load_column(columns: Mapping[str, Any], spelt: Mapping[str, str]) -> str | None:
    """The first load that varies, the first one where none does: widths pruned to one density."""
    there = [spelt[name] for name in LOADS if name in spelt]
    varies = (name for name in there if len({str(value).strip() for value in columns[name]}) > 1)
    return next(varies, there[0] if there else None)


def _labels(values: Any) -> NDArray[np.int64]:
    """Index of each row's label, such as its seed."""
    return np.unique([str(label).strip() for label in values], return_inverse=True)[1].reshape(-1)


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
    values, kind = numbers(columns, name), folded(name)
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


def _standard_errors(columns: Mapping[str, Any], names: Sequence[str], notes: list[str]) -> Array:
    """Columns ``NAME_se`` on the scale of the column NAME, [rows, 3]; zero where there is none.

    A blank has the median of the others.
    """
    out = []
    for name in names:
        measured, column = numbers(columns, name), f"{name}_se"
        values = numbers(columns, column, blanks=True) if column in columns else 0 * measured
        blank = np.isnan(values)
        if blank.any():
            usual = float(np.median(values[~blank])) if not blank.all() else 0.0
            notes.append(f"{column} was taken for {usual:.3g} where it is blank.")
            values = np.where(blank, usual, values)
        if values.min() < 0:
            raise InputError(f"{column} is a standard error; it has a value below zero.")
        out.append(values / 100 if np.max(np.abs(measured)) > 1 else values)
    return np.column_stack(out)


def _varying(chosen: list[Knob], values: Mapping[str, Array], asked: Sequence[str]) -> list[Knob]:
    """Drop knobs found by name that never move; refuse them where the user asked for them."""
    constant = [knob.name for knob in chosen if np.ptp(values[knob.name]) == 0]
    moving = [knob for knob in chosen if knob.name not in constant]
    refused = [name for name in constant if name in asked or not moving]
    if refused:
        raise InputError(
            f"knob {refused[0]!r} is constant at {values[refused[0]][0]:g}; "
            "runs at two or more settings are needed (three or more to find the best one)."
        )
    return moving
