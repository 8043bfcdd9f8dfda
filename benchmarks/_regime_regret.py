"""Regret of advice judged on a grid of noisy cells.

The least of several noisy means is too low, so regret against it (``plain``) is too high even for
perfect advice. Where the best level is named on all replicates but one, and both levels are scored
on that one (``crossed``), the difference is free of that bias; the level so named need not be the
truly best one, so crossed regret is, if anything, too low. The truth lies between the two.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def plain(errors: Array, level: int) -> float:
    """Mean error at a level less the least mean error, of ``errors`` [levels, replicates]."""
    mean = errors.mean(1)
    return float(mean[level] - mean.min())


def crossed(errors: Array, level: int) -> Array:
    """On each replicate, the error at a level less that at the best on all others, [replicates]."""
    out = np.empty(errors.shape[1])
    for one in range(errors.shape[1]):
        best = int(np.argmin(np.delete(errors, one, 1).mean(1)))
        out[one] = errors[level, one] - errors[best, one]
    return out


@dataclass
class Regrets:
    """What one adviser's levels cost, over many designs and loads; in points (per cent)."""

    plain_points: list[float] = field(default_factory=list)
    by_replicate: dict[int, list[float]] = field(default_factory=dict)

    def add(self, errors: Array, replicates: Array, level: int) -> None:
        """Count one column: ``errors`` [levels, replicates] as fractions, and who they are."""
        self.plain_points.append(100 * plain(errors, level))
        for name, value in zip(replicates, crossed(errors, level)):
            self.by_replicate.setdefault(int(name), []).append(100 * float(value))

    def add_all(self, errors: Array, replicates: Array) -> None:
        """Count every level once: the adviser that picks one at random."""
        for level in range(len(errors)):
            self.add(errors, replicates, level)

    def summary(self) -> dict[str, float]:
        """Means, and the standard error of the crossed one over replicates.

        All designs are judged on the same few replicates, so those are what is independent.
        """
        each = np.array([np.mean(values) for values in self.by_replicate.values()])
        return {
            "plain_points": float(np.mean(self.plain_points)),
            "crossed_points": float(each.mean()),
            "crossed_standard_error": float(each.std(ddof=1) / np.sqrt(len(each))),
        }
