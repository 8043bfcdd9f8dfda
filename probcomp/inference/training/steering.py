"""The price that steers the expected cost to a target while messages keep passing."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from probcomp.inference.training.gates import Graph, Messages, expected_cost, sweep

TOLERANCE = 0.01
"""Share of the target by which the expected cost may miss it."""

MOVING = 0.05
"""The same while the target itself moves from round to round."""

SETTLED = 1e-3
SETTLING_SWEEPS = 60
"""Largest change of a probability in the last sweep that counts as none, and most sweeps to it."""

LOWEST = -10.0
"""Lowest price, nats: there every weight of a live unit stays, and nothing is left to buy."""


def steer(
    graph: Graph,
    evidence: Mapping[str, Tensor],
    messages: Messages,
    target: float | None,
    *,
    sweeps: int = 3,
    trials: int = 6,
    reach: float = 0.5,
    ceiling: float = math.inf,
    subsidise: bool = False,
    tolerance: float = TOLERANCE,
) -> Messages:
    r"""Pass messages, with the price moved until the expected cost is near the target.

    For fixed evidence :math:`dE[c]/d\lambda = -\mathrm{Var}(c) \le 0`, so a bracket around the
    last price and a few secant steps inside it suffice. Each trial continues from the messages of
    the one before it.

    A target above the cost at price 0 is met in two stages, unless gates feel a subsidy: the gates
    settle at price 0 and stand; then a negative price moves the supports of their units. Gates that
    kept listening would hear supports that the subsidy had filled, close, hear empty ones, open,
    and so on.

    Args:
        graph: The factor graph.
        evidence: Parameter name to evidence of its sites, nats.
        messages: Where to start; its price is the first guess.
        target: Expected cost to reach, in the cost's unit, or ``None`` to keep the price.
        sweeps: Sweeps for each trial.
        trials: Most prices tried in a stage.
        reach: First step of the price, nats.
        ceiling: Highest price, nats.
        subsidise: Whether gates feel a negative price; see `sweep`.
        tolerance: Share of the target by which the cost may miss it.

    Returns:
        The messages of the trial that came nearest.
    """

    def passes(price: float, current: Messages) -> tuple[Messages, float]:
        for _ in range(sweeps):
            current = sweep(graph, evidence, current, price, subsidise=subsidise)
        return current, expected_cost(graph, evidence, current)

    guess, floor = min(messages.price, ceiling), LOWEST if subsidise else 0.0
    messages, cost = passes(max(guess, floor), messages)
    if target is None:
        return messages
    slack = tolerance * target
    if abs(cost - target) > slack:
        bounds = (floor, ceiling)
        messages, cost = _search(passes, messages, cost, target, bounds, trials - 1, reach, slack)
    if subsidise or messages.price > 0 or cost >= target - slack:
        return messages
    messages, cost = passes(max(min(guess, -reach), LOWEST), messages)
    return _search(passes, messages, cost, target, (LOWEST, 0.0), trials - 1, reach, slack)[0]


def _search(
    passes: Callable[[float, Messages], tuple[Messages, float]],
    messages: Messages,
    cost: float,
    target: float,
    bounds: tuple[float, float],
    trials: int,
    reach: float,
    slack: float,
) -> tuple[Messages, float]:
    """The messages whose cost comes nearest to the target, and that cost."""
    floor, ceiling = bounds
    price = messages.price
    best, nearest = messages, cost
    low: tuple[float, float] | None = None  # price too low: cost above the target
    high: tuple[float, float] | None = None
    for _ in range(trials):
        if abs(nearest - target) <= slack:
            break
        if (price >= ceiling and cost > target) or (price <= floor and cost < target):
            break
        if cost > target:
            low = (price, cost)
        else:
            high = (price, cost)
        if low is None or high is None:
            price += reach if cost > target else -reach
            reach *= 2
        else:
            (p0, c0), (p1, c1) = low, high
            share = (c0 - target) / (c0 - c1) if c0 > c1 else 0.5
            # Kept off the ends: the cost may fall in steps, where a secant would stand still.
            price = p0 + min(max(share, 0.1), 0.9) * (p1 - p0)
        price = min(max(price, floor), ceiling)
        messages, cost = passes(price, messages)
        if abs(cost - target) < abs(nearest - target):
            best, nearest = messages, cost
    return best, nearest


def settle(
    graph: Graph,
    evidence: Mapping[str, Tensor],
    messages: Messages,
    *,
    sweeps: int = SETTLING_SWEEPS,
) -> tuple[Messages, bool]:
    """Pass messages at their price until no probability moves, and whether that was reached."""
    for _ in range(sweeps):
        messages = sweep(graph, evidence, messages, messages.price)
        if messages.change < SETTLED and all(m.converged for m in messages.matrices.values()):
            return messages, True
    return messages, False
