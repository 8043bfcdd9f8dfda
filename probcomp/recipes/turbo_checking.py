"""Promised against measured nats: a temperature from some removals, and what others say of it."""

import math
from collections.abc import Sequence
from itertools import pairwise

EDGES = (0.1, 0.5, 2.0, 8.0, 30.0)
EACH = 16
"""Promised nats between which weights are tried, and how many in each bin."""

AGREES = (0.8, 1.25)
"""Measured over promised nats that pass: on the weights taken away, and in each range."""

FEWEST = 16
"""Removals below which nothing can be said."""

FEWEST_OF_BIN = 8
"""The same of one range of evidence."""


def temper(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """Temperature from one half of the pairs, and from the other half what it leaves.

    Args:
        pairs: Promised and measured nats. Every other one is a half: of every range.

    Returns:
        Promised over measured, by least squares through zero; and measured over promised of the
        other half after the division. 1 and ``None`` where there are too few, or where removal
        does not raise the loss or makes it infinite or NaN.
    """
    if len(pairs) < FEWEST:
        return 1.0, None
    first, second = (_slope(pairs[k::2]) for k in (0, 1))
    if not (math.isfinite(first) and first > 0 and math.isfinite(second)):
        return 1.0, None
    return 1 / first, second / first


def check(pairs: Sequence[tuple[float, float]]) -> list[float | None]:
    """Measured over promised nats in each bin of `EDGES`.

    ``None`` for a bin with less than `FEWEST_OF_BIN`, or where the ratio is not finite.
    """
    found: list[float | None] = []
    for low, high in pairwise(EDGES):
        inside = [pair for pair in pairs if low <= pair[0] < high]
        slope = _slope(inside) if len(inside) >= FEWEST_OF_BIN else math.nan
        found.append(slope if math.isfinite(slope) else None)
    return found


def agrees(slope: float | None, bins: Sequence[float | None]) -> bool:
    """Whether removals agree with what was promised, and evidence does in every bin."""
    return all(s is not None and AGREES[0] <= s <= AGREES[1] for s in (slope, *bins))


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(p * m for p, m in pairs) / sum(p * p for p, _ in pairs)
