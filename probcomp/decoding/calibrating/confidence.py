r"""How often a confident token is wrong: a curve from confidence to error, falling.

Bins of equal count; error of a bin by Jeffreys' rule, (wrong + 1/2) / (count + 1); neighbours that
rise are pooled (pool adjacent violators), so the curve is the isotonic fit to the bins. Few pairs
get one temperature in its place, by likelihood.
"""

import torch
from torch import Tensor

ENOUGH = 1000  # pairs; below this a single temperature is fitted
BINS = 24


def fit_error_curve(
    confidence: Tensor, wrong: Tensor, bins: int = BINS
) -> tuple[tuple[float, float], ...]:
    """Knots (confidence, chance to be wrong) from pairs [n]; at most ``bins``, rising."""
    order = confidence.argsort(stable=True)
    c = confidence[order].double().clamp(1e-9, 1 - 1e-9)
    w = wrong[order].double()
    pools: list[list[float]] = []  # [sum of logits, wrong, count]
    for x, y in zip(c.logit().tensor_split(bins), w.tensor_split(bins)):
        if not len(x):
            continue
        pools.append([float(x.sum()), float(y.sum()), float(len(x))])
        while len(pools) > 1 and _rate(pools[-1]) >= _rate(pools[-2]):
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last)]
    knots = [(float(torch.tensor(x / n).sigmoid()), _rate([x, y, n])) for x, y, n in pools]
    return tuple(knots)


def _rate(pool: list[float]) -> float:
    return (pool[1] + 0.5) / (pool[2] + 1.0)


def fit_temperature(confidence: Tensor, wrong: Tensor) -> float:
    """T of eps = 1 - sigmoid(logit(c) / T) by maximum likelihood on a grid."""
    logit = confidence.double().clamp(1e-9, 1 - 1e-9).logit()
    grid = torch.logspace(-0.7, 0.7, 57, dtype=torch.float64)
    right = (~wrong.bool()).double()
    scores = [
        float(
            torch.nn.functional.binary_cross_entropy_with_logits(logit / t, right, reduction="sum")
        )
        for t in grid
    ]
    return float(grid[int(torch.tensor(scores).argmin())])


def calibration_error(error: Tensor, wrong: Tensor, bins: int = 10) -> float:
    """Expected calibration error of predicted errors [n], bins of equal count."""
    order = error.argsort()
    gaps = [
        abs(float(e.mean()) - float(w.double().mean())) * len(e)
        for e, w in zip(error[order].tensor_split(bins), wrong[order].tensor_split(bins))
        if len(e)
    ]
    return sum(gaps) / len(error)
