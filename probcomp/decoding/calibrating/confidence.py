r"""How often a confident token is wrong: a curve from confidence to error, falling.

``line``      logit eps = a + b logit(1 - c) by logistic regression: two knots, and the only one
              that says anything about tokens surer than the data can tell
``isotonic``  bins of equal count; error of a bin by Jeffreys' rule, (wrong + 1/2) / (count + 1);
              neighbours that rise are pooled (pool adjacent violators)

Bins need `ENOUGH` pairs. The curve of higher likelihood on answers that it was not fitted on is
kept, or none, where the model's own 1 - c is as good.
"""

import torch
from torch import Tensor

from probcomp.decoding.calibrating.ends import fit_platt
from probcomp.decoding.committing import expected_error

Curve = tuple[tuple[float, float], ...]
ENOUGH = 1000  # pairs; below this no bins
SURE, FAR = 1e-9, 20.0  # the least 1 - c, and the logit of a chance that is all but 0 or 1
BINS = 24


def fit_error_curve(confidence: Tensor, wrong: Tensor, bins: int = BINS) -> Curve:
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


def fit_line(confidence: Tensor, wrong: Tensor) -> Curve:
    """Two knots of a line on logit axes, by logistic regression; falling."""
    doubt = (1 - confidence.double()).clamp(SURE, 1 - SURE).logit()
    intercept, slope = fit_platt(doubt, wrong)
    slope = max(slope, 1e-3)
    # As far as either side of the line is a chance that can be told from 0 and 1.
    high, low = (min(max((y - intercept) / slope, -FAR), FAR) for y in (FAR, -FAR))
    x = torch.tensor([high, low], dtype=torch.float64)
    error = torch.sigmoid(intercept + slope * x)
    return tuple(zip(torch.sigmoid(-x).tolist(), error.tolist()))


def log_loss(error: Tensor, wrong: Tensor) -> float:
    """Mean negative log likelihood of predicted errors, nats per token."""
    error = error.double().clamp(1e-9, 1 - 1e-9)
    return float(-torch.where(wrong.bool(), error.log(), torch.log1p(-error)).mean())


def choose_curve(fitted: tuple[Tensor, Tensor], chosen: tuple[Tensor, Tensor]) -> Curve:
    """The curve from pairs (confidence, wrong) ``fitted`` that explains ``chosen`` best."""
    candidates: list[Curve] = [(), fit_line(*fitted)]
    if len(fitted[0]) >= ENOUGH:
        candidates.append(fit_error_curve(*fitted))
    c, wrong = chosen
    return min(candidates, key=lambda curve: log_loss(expected_error(c, 1.0, curve), wrong))


def calibration_error(error: Tensor, wrong: Tensor, bins: int = 10) -> float:
    """Expected calibration error of predicted errors [n], bins of equal count."""
    order = error.argsort()
    gaps = [
        abs(float(e.mean()) - float(w.double().mean())) * len(e)
        for e, w in zip(error[order].tensor_split(bins), wrong[order].tensor_split(bins))
        if len(e)
    ]
    return sum(gaps) / len(error)
