"""What one more run is worth: by how much the error at the advised level is expected to fall.

The knowledge gradient for correlated normal beliefs (Frazier, Powell and Dayanik 2009, INFORMS
Journal on Computing 21(4), section 3), for errors that are log-normal. A run may be made where none
was, or repeat one with another seed. The entropy of the decision (`probcomp.regime.design`) does
not do for this: it asks whether to move the knob, not to where.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from probcomp.regime.knobs import Array

STEPS = np.linspace(-6.0, 6.0, 97)
"""Outcomes that are looked at, in standard deviations: far out, where a sure choice may turn."""

PROMISE = 1e-6
"""Share of the least error below which an expected fall is rounding."""

WEIGHTS = norm.pdf(STEPS) / norm.pdf(STEPS).sum()


def expected_fall(mean: Array, cover: Array, noise: Array, wanted: Array) -> Array:
    """Expected fall of the least expected error among ``wanted`` by one run at each point.

    Args:
        mean, cover: Belief about ln(error), [points] and [points, points].
        noise: Variance of one run about it, [points].
        wanted: Indices of the points that may be advised.

    Returns:
        In the unit of the error, [points].
    """
    before = mean[wanted] + np.diag(cover)[wanted] / 2  # ln of the expected error
    slope = cover[:, wanted] / np.sqrt(np.diag(cover) + noise)[:, None]
    after = np.exp(before + STEPS[:, None, None] * slope - slope**2 / 2)
    return np.maximum(np.exp(before).min() - WEIGHTS @ after.min(2), 0.0)


def worth_most(
    mean: Array,
    cover: Array,
    noise: Array,
    wanted: Array,
    cost: Callable[[list[int]], Array],
    count: int,
) -> list[int]:
    """Points of the next ``count`` runs: those of the largest `expected_fall` for their cost.

    Chosen one after the other: once one is taken the belief has the covariance that it would leave,
    whatever it shows, and the next is scored under that. A point may be taken repeatedly. Where no
    run promises a fall, those come that tell most about the errors of all ``wanted``.

    Args:
        mean, cover, noise, wanted: See `expected_fall`.
        cost: Cost of one run more at each point, given those taken before, [points]; infinite where
            none may be made.
    """
    taken: list[int] = []
    for _ in range(count):
        price = cost(taken)
        free = np.flatnonzero(np.isfinite(price))
        if len(free) == 0:
            break
        value = expected_fall(mean, cover, noise, wanted)
        if value[free].max() < PROMISE * np.exp(mean[wanted].min()):
            # No outcome turns the choice: what is still open about the levels, by each run.
            value = (cover[:, wanted] ** 2).sum(1) / (np.diag(cover) + noise)
        one = int(free[np.argmax(value[free] / price[free])])
        taken.append(one)
        cover = cover - np.outer(cover[one], cover[one]) / (cover[one, one] + noise[one])
    return taken
