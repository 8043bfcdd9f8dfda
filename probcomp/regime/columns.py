"""Columns of run tables: what they are called, and how files and numbers are read."""

import csv
import gzip
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


BLANK = ("", "nan", "na", "<na>")
"""What stands where nothing was measured, in small letters."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a table stand for the one who wrote it.

    Attributes:
        numbers: Of each row, from 1; empty where they are simply counted.
        word: ``row``, or ``line`` of a file, of which the header is the first.
    """

    numbers: tuple[int, ...] = ()
    word: str = "row"

    def named(self, rows: Sequence[int]) -> str:
        """The first five of ``rows``, which count from 0, in words."""
        shown = [str(self.numbers[row] if self.numbers else row + 1) for row in rows[:5]]
        many = f"{self.word}{'s' * (len(rows) > 1)} {', '.join(shown)}"
        first = "the header is line 1" if self.word == "line" else "the first is 1"
        return f"{many}{', ...' if len(rows) > 5 else ''} ({first})"

    def take(self, keep: Sequence[bool]) -> "Rows":
        """Those kept, under the numbers that they had."""
        numbers = self.numbers or range(1, len(keep) + 1)
        return Rows(tuple(n for n, kept in zip(numbers, keep) if kept), self.word)


class Columns(dict[str, list[Any]]):
    """Values by column, where their rows stand, and what was left out in sentences."""

    def __init__(
        self, columns: Mapping[Any, Any], rows: Rows | None = None, notes: tuple[str, ...] = ()
    ) -> None:
        super().__init__({str(name): list(values) for name, values in columns.items()})
        self.rows, self.notes = rows or Rows(), notes


def read_csv(path: Path) -> Columns:
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
    columns = {name: [line[i] for _, line in numbered[1:]] for i, name in enumerate(header)}
    return Columns(columns, Rows(tuple(number for number, _ in numbered[1:]), "line"))


def rows_where(columns: Mapping[str, Any], where: Mapping[str, Any]) -> Columns:
    """The rows in which every named column has its value, compared as numbers where both are.

    ``{"NAME!": value}`` leaves out the rows in which NAME has the value, ``{"NAME!": ""}`` those in
    which it is blank; how many is noted.
    """
    columns = columns if isinstance(columns, Columns) else Columns(columns)
    for asked, value in where.items():
        others = asked not in columns and asked.endswith("!")
        name = asked[:-1].strip() if others else asked
        if name not in columns:
            raise unknown("column", name, columns)
        keep = [_same(entry, value) != others for entry in columns[name]]
        said = f"{name} {'(blank)' if _blank(value) else value}"
        if not any(keep):
            seen = ", ".join(dict.fromkeys(map(str, columns[name])))
            less = "another than " if others else ""
            raise InputError(f"no run has {less}{said}; there are: {shorten(seen, 80)}.")
        left = keep.count(False)
        note = (
            f"{left} row{'s' * (left != 1)} with {said} {'was' if left == 1 else 'were'} left out."
        )
        columns = Columns(
            {
                column: [entry for entry, kept in zip(values, keep) if kept]
                for column, values in columns.items()
            },
            columns.rows.take(keep),
            (*columns.notes, note) if others else columns.notes,
        )
    return columns


def _blank(entry: Any) -> bool:
    return entry is None or str(entry).strip().lower() in BLANK


def _same(entry: Any, value: Any) -> bool:
    if _blank(entry) or _blank(value):
        return _blank(entry) and _blank(value)
    try:
        return float(entry) == float(value)
    except (TypeError, ValueError):
        return str(entry).strip() == str(value).strip()


def in_per_cent(values: Array) -> bool:
    """Whether a column of errors, accuracies or connectivities is in per cent, not in shares."""
    return bool(np.max(np.abs(values), initial=0.0) > 1)


def fraction(values: Array, name: str, notes: list[str]) -> Array:
    """A column as shares of 1; what was assumed goes to ``notes``.

    Raises:
        InputError: for errors or accuracies most of which look like shares beside one above 1.
    """
    if not in_per_cent(values):
        if folded(name) in ERRORS and values.max() > LARGE:
            notes.append(
                f"{name} was read as a share of 1 ({values.min():.0%} to {values.max():.0%} "
                "wrong); were it in per cent, divide it by 100."
            )
        return values
    usual = float(np.median(values))
    least = {**dict.fromkeys(ACCURACIES, 1.0), **dict.fromkeys(ERRORS, LARGE)}.get(folded(name))
    if least is not None and usual < least:
        raise InputError(
            f"{name} has values up to {values.max():g}, but half of them are below {usual:.3g}: "
            "some in per cent, others not, or a slip? Correct them, or give all as shares of 1."
        )
    notes.append(f"{name} was read as per cent.")
    return values / 100


def numbers(columns: Mapping[str, Any], name: str, *, blanks: bool = False) -> Array:
    """Finite numbers of a column, [rows]; `InputError` names the row of any other.

    With ``blanks`` what was left blank is NaN.
    """
    raw = list(columns[name])
    rows = columns.rows if isinstance(columns, Columns) else Rows()
    if not raw:
        raise InputError(f"column {name!r} is empty: the table has no rows.")
    out = np.empty(len(raw))
    for row, value in enumerate(raw):
        try:
            out[row] = _number(value)
        except (TypeError, ValueError):
            comma = "; decimals need a point" if isinstance(value, str) and "," in value else ""
            raise InputError(
                f"column {name!r}, {rows.named([row])}: {value!r} is not a number{comma}."
            ) from None
    for what, bad, cure in (
        ("infinite", np.isinf(out), "leave such runs out of the table"),
        (
            "missing",
            np.isnan(out) & (not blanks),
            f"leave such runs out with where={{'{name}!': ''}} (--where {name}!= of the command)",
        ),
    ):
        if bad.any():
            where = rows.named(np.flatnonzero(bad).tolist())
            raise InputError(
                f"column {name!r} has {int(bad.sum())} {what} value(s), in {where}; {cure}."
            )
    return out


def _number(value: Any) -> float:
    """A cell of a table: ``5%`` is 0.05, a blank NaN."""
    if _blank(value):
        return float("nan")
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return float(value)
