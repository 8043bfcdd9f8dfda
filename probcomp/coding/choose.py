"""How coarse may it be: the highest price of a bit that the model still bears."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from probcomp.coding.quantise import Quantised, quantise

PRICES = tuple(math.log(2) * 2.0**k for k in range(-18, 8))
"""Nats a bit that are tried. ``ln 2`` is the price of a two-part description length; a network that
fits its training data perfectly has next to no curvature there, and bears far lower prices only."""


@dataclass(frozen=True)
class Choice:
    """A quantised model and what it took.

    Attributes:
        quantised: The model.
        price: Nats a bit.
        before: Measure of the model that was given.
        after: Measure of the quantised one.
        within: Whether that is within the tolerance; where no price is, the lowest was used.
    """

    quantised: Quantised
    price: float
    before: float
    after: float
    within: bool


def coarsest(
    model: nn.Module,
    measure: Callable[[nn.Module], float],
    tolerance: float,
    *,
    importance: Mapping[str, Tensor] | None = None,
    finish: Callable[[Quantised], Quantised] = lambda quantised: quantised,
    prices: tuple[float, ...] = PRICES,
) -> Choice:
    """Quantise at the highest price whose measure rises by at most ``tolerance``; by bisection.

    Args:
        model: Not changed.
        measure: What must not rise, such as the error on training data. Never measure on the data
            that the result is reported on.
        tolerance: By how much it may.
        importance: Passed to `quantise`.
        finish: Applied to each candidate before it is measured, such as `tune`.
        prices: Ascending prices to choose from.
    """
    before = measure(model)
    found: dict[int, tuple[Quantised, float]] = {}

    def bears(place: int) -> bool:
        candidate = finish(quantise(model, prices[place], importance))
        found[place] = (candidate, measure(candidate.model))
        return found[place][1] <= before + tolerance

    low, high = -1, len(prices)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bears(middle) else (low, middle)
    place = max(low, 0)
    quantised, after = found[place]
    return Choice(quantised, prices[place], before, after, low >= 0)
