"""What is known of a mask's position before it is read: the contexts of its adaptive code.

A context is a number computed from positions already coded, in reading order. The writer computes
all of them at once; the reader one by one. `Layout` names what enters:

* neighbours: left, up and up-left, each kept or not (zero outside);
* densities: how full the column so far and the row so far are, relative to the whole so far, in
  four levels each (below 1/2, below 1, below 2, above);
* period: the position ``period`` columns before, which is the pixel above in a flattened image,
  or the same place of the kernel before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

_LEVELS = 4


@dataclass(frozen=True)
class Layout:
    """Which facts make up the context.

    Attributes:
        neighbours: 0 none, 1 how many of the three are kept, 2 which of them.
        densities: whether row and column densities enter.
        period: columns back to one more neighbour; 0 for none.
    """

    neighbours: int
    densities: bool
    period: int = 0

    @property
    def contexts(self) -> int:
        """Number of contexts."""
        return (1, 4, 8)[self.neighbours] * (_LEVELS**2 if self.densities else 1) * 2


KINDS = ((2, False), (0, True), (1, True), (0, False))
"""Neighbours and densities of the layouts that a file may name, by number."""


def all_contexts(kept: np.ndarray, layout: Layout) -> np.ndarray:
    """Contexts of every position of a boolean matrix, int64 [rows, columns]."""
    rows, columns = kept.shape
    context = np.zeros(kept.shape, np.int64)
    if layout.neighbours:
        padded = np.zeros((rows + 1, columns + 1), np.int64)
        padded[1:, 1:] = kept
        left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
        context += left + up + corner if layout.neighbours == 1 else left + 2 * up + 4 * corner
    if layout.densities:
        ones = kept.astype(np.int64)
        before = np.cumsum(ones.ravel()).reshape(kept.shape) - ones
        seen = np.arange(rows * columns, dtype=np.int64).reshape(kept.shape)
        above = np.cumsum(ones, 0) - ones
        beside = np.cumsum(ones, 1) - ones
        row, column = np.arange(rows)[:, None], np.arange(columns)[None, :]
        context = context * _LEVELS + _levels(above, row, before, seen)
        context = context * _LEVELS + _levels(beside, column, before, seen)
    context *= 2
    if 0 < layout.period < columns:
        context[:, layout.period :] += kept[:, : -layout.period]
    return context


def _levels(ones: np.ndarray, of: np.ndarray, before: np.ndarray, seen: np.ndarray) -> np.ndarray:
    here = (2 * ones + 1) * (2 * seen + 2)
    there = (2 * before + 1) * (2 * of + 2)
    return (2 * here >= there).astype(np.int64) + (here >= there) + (here >= 2 * there)


class Walk:
    """The same contexts for a reader: iterate, and tell each bit by `tell`."""

    def __init__(self, rows: int, columns: int, layout: Layout) -> None:
        self.rows, self.columns, self.layout = rows, columns, layout
        self.kept = [bytearray(columns) for _ in range(rows)]  # a byte a position, not a pointer
        self._place = (0, 0)
        self._above = [0] * columns
        self._beside = self._before = 0

    def __iter__(self) -> Iterator[int]:
        layout, none = self.layout, bytearray(self.columns)
        period = layout.period if layout.period < self.columns else 0
        for r in range(self.rows):
            here, up = self.kept[r], self.kept[r - 1] if r else none
            self._beside = 0
            for c in range(self.columns):
                self._place = (r, c)
                context = 0
                if layout.neighbours:
                    left, corner = (here[c - 1], up[c - 1]) if c else (0, 0)
                    if layout.neighbours == 1:
                        context = left + up[c] + corner
                    else:
                        context = left + 2 * up[c] + 4 * corner
                if layout.densities:
                    seen, before = r * self.columns + c, self._before
                    context = context * _LEVELS + _level(self._above[c], r, before, seen)
                    context = context * _LEVELS + _level(self._beside, c, before, seen)
                yield 2 * context + (here[c - period] if period and c >= period else 0)

    def tell(self, bit: int) -> None:
        """The bit at the position whose context was given last."""
        if bit:
            r, c = self._place
            self.kept[r][c] = 1
            self._above[c] += 1
            self._beside += 1
            self._before += 1


def _level(ones: int, of: int, before: int, seen: int) -> int:
    here = (2 * ones + 1) * (2 * seen + 2)
    there = (2 * before + 1) * (2 * of + 2)
    return (2 * here >= there) + (here >= there) + (here >= 2 * there)


def code_length(bits: np.ndarray, context: np.ndarray) -> float:
    """Bits of an adaptive code, sum over contexts of -log2 B(n1 + 1/2, n0 + 1/2) / B(1/2, 1/2)."""
    size = int(context.max(initial=0)) + 1
    ones = np.bincount(context[bits], minlength=size)
    zeros = np.bincount(context[~bits], minlength=size)
    nats = betaln(0.5, 0.5) - betaln(ones + 0.5, zeros + 0.5)
    return float(nats.sum() / np.log(2))


def best_layout(kept: np.ndarray, periods: tuple[int, ...]) -> tuple[int, int, float]:
    """Number of the kind, the period, and the bits of the shortest code of a mask."""
    choices = []
    for kind, (neighbours, densities) in enumerate(KINDS):
        for period in sorted({0, *(p for p in periods if 1 < p < kept.shape[1])}):
            context = all_contexts(kept, Layout(neighbours, densities, period))
            choices.append((code_length(kept, context), kind, period))
    bits, kind, period = min(choices)
    return kind, period, bits
