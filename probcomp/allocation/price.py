r"""One price for each unit of cost turns a budget into a field on the supports.

Maximising the evidence bound under :math:`E[\sum_n c_n s_n] \le C` gives a Lagrangian that adds
:math:`-\lambda c_n` to the log-odds of each support. The price :math:`\lambda` is in nats for a
unit of cost: storing ``b`` bits for a parameter is a price of ``b ln 2`` nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from probcomp.errors import BudgetError


@dataclass(frozen=True)
class Price:
    """A solved price.

    Attributes:
        value: Nats for each unit of cost; 0 where the budget does not bind.
        cost: Expected cost at that price.
        binding: Whether the budget forced the price above 0.
        evaluations: How often the expected cost was computed.
    """

    value: float
    cost: float
    binding: bool
    evaluations: int


def price_field(cost: Tensor | float, price: float) -> Tensor | float:
    """The field ``-price * cost`` to add to log-odds; nats."""
    return -price * cost


def solve_price(
    expected_cost: Callable[[float], float],
    budget: float,
    *,
    start: float = 1.0,
    tolerance: float = 1e-3,
    max_evaluations: int = 80,
) -> Price:
    """The smallest price whose expected cost fits the budget, by bisection.

    On exact marginals ``dE[c]/dprice = -Var(c) <= 0``, so bisection is valid; where the marginals
    are approximate or a support set changes in steps, the result still fits the budget, and the
    shortfall is what the caller reads off ``Price.cost``.

    Args:
        expected_cost: Price (nats for a unit of cost) to expected cost; must not increase.
        budget: Largest cost allowed.
        start: First guess of the price's scale.
        tolerance: Stop when the cost is within this share of the budget, below it.
        max_evaluations: Limit on evaluations; the best feasible price so far is returned.

    Raises:
        BudgetError: No finite price reaches the budget, or the cost is not finite.
    """

    evaluations = 0

    def cost_at(price: float) -> float:
        nonlocal evaluations
        evaluations += 1
        cost = float(expected_cost(price))
        if not math.isfinite(cost):
            raise BudgetError(f"the expected cost at price {price:g} is {cost}")
        return cost

    cost = cost_at(0.0)
    if cost <= budget:
        return Price(0.0, cost, False, evaluations)
    low, high = 0.0, start
    while (cost := cost_at(high)) > budget:
        low, high = high, high * 4
        if high > start * 1e12:
            raise BudgetError(
                f"the budget {budget:g} is out of reach: {cost:g} remains at any price; "
                "parts of the model are not removable"
            )
    best = Price(high, cost, True, evaluations)
    while evaluations < max_evaluations and budget - best.cost > tolerance * budget:
        middle = 0.5 * (low + high)
        if not low < middle < high:  # the price is resolved to the last bit
            break
        cost = cost_at(middle)
        if cost <= budget:
            high, best = middle, Price(middle, cost, True, evaluations)
        else:
            low = middle
    return Price(best.value, best.cost, True, evaluations)
