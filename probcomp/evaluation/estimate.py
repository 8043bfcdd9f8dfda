"""A number with its uncertainty: the only form in which a measured value leaves this package."""

import math
from dataclasses import dataclass

from probcomp.errors import InputError

LEVEL = 0.95
"""Probability of the intervals reported by default."""


@dataclass(frozen=True)
class Estimate:
    """A value and an interval of stated kind and probability.

    Attributes:
        value: the point estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        level: probability of the interval, e.g. 0.95.
        kind: how the interval was made, in words (``"Jeffreys"``, ``"Dirichlet 2x2"`` ...).
        n: number of samples behind the estimate.
    """

    value: float
    low: float
    high: float
    level: float
    kind: str
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.level:.0%} {self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Comparison:
    """One quantity measured on the dense and on the compressed model, on the same samples.

    Attributes:
        dense: the estimate for the dense model.
        compressed: the estimate for the compressed model.
        difference: compressed minus dense, with a paired interval.
    """

    dense: Estimate
    compressed: Estimate
    difference: Estimate


def check_level(level: float) -> float:
    """Return ``level`` if it is a probability strictly between 0 and 1."""
    if not (math.isfinite(level) and 0 < level < 1):
        raise InputError(f"interval probability must be between 0 and 1, got {level}; try 0.95")
    return level
