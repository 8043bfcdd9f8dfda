"""Columns of run tables: what they are called, and how files and numbers are read."""

import csv
import gzip
import lzma
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

import numpy as np

from probcomp.errors import InputError, unknown
from probcomp.regime.knobs import Array, folded

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

LARGE = 0.5
"""An error above this, in a column with none above 1, may be one in per cent: that is noted."""


def read_csv(path: Path) -> dict[str, list[str]]:
    """Columns of a CSV file as text, ``.gz`` and ``.xz`` too."""
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(path.suffix, open)
    try:
        stream: IO[str]
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:  # with or without mark
            head = stream.readline()
            stream.seek(0)
            # Spreadsheets write semicolons where the comma is for decimals; tables are pasted.
            reader = csv.reader(stream, delimiter=max(",;\t", key=head.count))
            numbered = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8; save it as UTF-8.") from error
    except (OSError, lzma.LZMAError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}") from error
    if not numbered:
        raise InputError(f"{path} is empty; it needs a header line and one line a run.")
    header = [name.strip() for name in numbered[0][1]]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has {header.count(twice)} columns {twice!r}; rename or drop one.")
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(line)} values for {len(header)} columns."
            )
    return {name: [line[i] for _, line in numbered[1:]] for i, name in enumerate(header)}


def rows_where(columns: Mapping[str, Any], where: Mapping[str, Any]) -> Mapping[str, Any]:
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


def in_per_cent(values: Array) -> bool:
    """Whether a column of errors, accuracies or connectivities is in per cent, not in shares."""
    return bool(np.max(np.abs(values), initial=0.0) > 1)


def fraction(values: Array, name: str, notes: list[str]) -> Array:
    """A column as shares of 1; what was assumed goes to ``notes``."""
    if not in_per_cent(values):
        if folded(name) in ERRORS and values.max() > LARGE:
            notes.append(
                f"{name} was read as a share of 1 ({values.min():.0%} to {values.max():.0%} "
                "wrong); were it in per cent, divide it by 100."
            )
        return values
    notes.append(f"{name} was read as per cent.")
    return values / 100


def numbers(values: Any, name: str) -> Array:
    """Finite numbers of a column, [rows]; `InputError` names the row of any other."""
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
