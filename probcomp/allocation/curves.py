r"""One price over all axes, for losses that are known along an order of removal.

Each axis has a curve: the loss :math:`L_a(m)` when its first ``m`` units of an order are gone. The
counts under a price :math:`\lambda` a unit of cost are

.. math:: m_a(\lambda) = \arg\max_m\; \lambda\, c_a m - L_a(m)

exactly, convex or not. Costs follow the neighbours: where both sides of a matrix shrink, a unit
saves less, so they are computed again at the counts found, until the budget is met.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import BudgetError

CLOSE = 1e-9
"""Relative width of the bracket at which the search for the price ends."""
FREE = 1e-30
"""Price at which the search ends: what goes at it costs nothing."""
COST_ROUNDS = 6


@dataclass(frozen=True)
class Allocation:
    """How many units of each axis go.

    Attributes:
        removed: Axis name to the number of units that go.
        price: Loss for each unit of cost, at the margin.
        costs: Axis name to the cost of one unit at the end.
        loss: Sum of the curves at the end.
    """

    removed: Mapping[str, int]
    price: float
    costs: Mapping[str, float]
    loss: float


def allocate(
    curves: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    cost: Callable[[Mapping[str, int]], float],
    allowed: float,
) -> Allocation:
    """Counts of least total loss that fit a budget.

    Args:
        curves: Axis name to the loss at 0, 1, 2 ... units removed, starting at 0.
        sizes: Axis name to its units.
        cost: Units that stay, by axis, to the cost of the model.
        allowed: What may remain.

    Raises:
        BudgetError: More remains when all curves are at their end.
    """
    rising = {name: torch.cummax(c.double(), 0).values for name, c in curves.items()}
    steps = {name: torch.arange(len(c), dtype=torch.float64) for name, c in rising.items()}

    known: dict[tuple[int, ...], float] = {}

    def spent(removed: Mapping[str, int]) -> float:
        """Kept, since the end of a search asks for the same counts again and again."""
        key = tuple(removed[name] for name in rising)
        if key not in known:
            known[key] = cost({name: sizes[name] - removed[name] for name in rising})
        return known[key]

    most = {name: len(c) - 1 for name, c in rising.items()}
    if spent(most) > allowed:
        raise BudgetError(
            f"with every removable unit gone {spent(most):,.0f} remains, but the budget allows "
            f"{allowed:,.0f}"
        )
    removed = dict.fromkeys(rising, 0)
    best: tuple[float, dict[str, int], float, dict[str, float]] | None = None
    costs = _unit_costs(removed, sizes, cost)
    for _ in range(COST_ROUNDS):

        def counts(price: float, costs: Mapping[str, float] = costs) -> dict[str, int]:
            return {
                name: int((price * costs[name] * steps[name] - curve).argmax())
                for name, curve in rising.items()
            }

        low, high = 0.0, 1e-12
        while spent(counts(high)) > allowed and high < 1e30:
            low, high = high, high * 10
        while high - low > CLOSE * high and high > FREE:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if spent(counts(middle)) <= allowed else (middle, high)
        found = _spend_rest(counts(high), rising, sizes, cost, allowed, costs)
        loss = sum(float(rising[name][m]) for name, m in found.items())
        if best is None or loss < best[0]:
            best = (loss, found, high, costs)
        elif found == removed:
            break
        removed = found
        costs = _unit_costs(removed, sizes, cost)
    assert best is not None
    return Allocation(best[1], best[2], best[3], best[0])


def _unit_costs(
    removed: Mapping[str, int],
    sizes: Mapping[str, int],
    cost: Callable[[Mapping[str, int]], float],
) -> dict[str, float]:
    """What one unit of each axis costs at these widths; the cost is linear in each of them."""
    left = {name: sizes[name] - m for name, m in removed.items()}
    costs = {}
    for name, count in left.items():
        other = count - 1 if count > 1 else count + 1
        costs[name] = abs(cost(left) - cost({**left, name: other}))
    return costs


def _spend_rest(
    removed: dict[str, int],
    curves: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    cost: Callable[[Mapping[str, int]], float],
    allowed: float,
    costs: Mapping[str, float],
) -> dict[str, int]:
    """Put units back where they save most for their cost, while they fit."""
    removed = dict(removed)
    full: set[str] = set()
    while len(full) < len(removed):
        gains = {
            name: float(curves[name][m] - curves[name][m - 1]) / max(costs[name], 1e-300)
            for name, m in removed.items()
            if m > 0 and name not in full
        }
        if not gains:
            break
        name = max(gains, key=lambda n: gains[n])
        more = {**removed, name: removed[name] - 1}
        if cost({n: sizes[n] - m for n, m in more.items()}) > allowed:
            full.add(name)
        else:
            removed = more
    return removed
