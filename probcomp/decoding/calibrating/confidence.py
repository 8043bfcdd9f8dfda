r"""How often a confident token is wrong: a curve from confidence to error, falling.

``line``      logit eps = a + b logit(1 - c) by logistic regression: two knots, and the only one
              that says anything about tokens surer than the data can tell
``isotonic``  bins of equal sum sqrt(1 - c); error of a bin by Jeffreys' rule, (wrong + 1/2) /
              (count + 1); neighbours that rise are pooled (pool adjacent violators)

Bins of equal count would put all that a sure model gets wrong into one: its errors are among the
least sure hundredth of its tokens. Bins need `ENOUGH` pairs and `BINS` wrong ones among them. Few
wrong tokens say little of the line: it stays near the model's own 1 - c by its prior.

Kept is the curve that can say most of those whose likelihood, on answers that they were not fitted
on, is within a standard error of the best. A line through all is bent by few wrong tokens far out;
what bins expect is right in each range, which is what a ledger promises.

Rows that are sure as a whole (a mean entropy below `SURE_ENTROPY` before anything is decided) have
a curve of their own. Answers that a prompt decides and answers that are drawn meet in one
calibration; a confidence of 0.97 among tokens that are as sure is wrong far less often than one
among open ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.decoding.calibrating.ends import fit_platt
from probcomp.decoding.committing import expected_error

Curve = tuple[tuple[float, float], ...]
ENOUGH = 1000  # pairs; below this no bins
SURE, FAR = 1e-9, 20.0  # the least 1 - c, and the logit of a chance that is all but 0 or 1
BINS = 24
PRECISION = (1.0, 10.0)  # of the line's prior: an intercept of 0 +- 1, a slope of 1 +- 0.3
SURE_ENTROPY = 0.25  # nats per undecided position


@dataclass(frozen=True)
class Watched:
    """Tokens that a decoder committed: their ``confidence``, whether ``wrong``, and the ``doubt``
    of their row, its mean entropy (nats) to begin with. All [tokens]."""

    confidence: Tensor
    wrong: Tensor
    doubt: Tensor

    def part(self, sure: bool) -> "Watched":
        """Tokens of rows that are sure, or that are not."""
        on = (self.doubt < SURE_ENTROPY) == sure
        return Watched(self.confidence[on], self.wrong[on], self.doubt[on])

    def __add__(self, other: "Watched") -> "Watched":
        pairs = ((getattr(self, k), getattr(other, k)) for k in self.__dataclass_fields__)
        return Watched(*(torch.cat(pair) for pair in pairs))


def fit_error_curve(confidence: Tensor, wrong: Tensor, bins: int = BINS) -> Curve:
    """Knots (confidence, chance to be wrong) from pairs [n]; at most ``bins``, rising."""
    order = confidence.argsort(stable=True)
    c = confidence[order].double().clamp(1e-9, 1 - 1e-9)
    w = wrong[order].double()
    weight = (1 - c).sqrt()
    middle = (weight.cumsum(0) - 0.5 * weight) / weight.sum().clamp(min=1e-30)
    sizes = torch.bincount((middle * bins).long().clamp(max=bins - 1), minlength=bins).tolist()
    pools: list[list[float]] = []  # [sum of logits, wrong, count]
    for x, y in zip(c.logit().split(sizes), w.split(sizes)):
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
    """Two knots of a line on logit axes, by logistic regression; falling. None from no pairs."""
    if not len(confidence):
        return ()
    doubt = (1 - confidence.double()).clamp(SURE, 1 - SURE).logit()
    intercept, slope = fit_platt(doubt, wrong, precision=PRECISION)
    slope = max(slope, 1e-3)
    # As far as either side of the line is a chance that can be told from 0 and 1.
    high, low = (min(max((y - intercept) / slope, -FAR), FAR) for y in (FAR, -FAR))
    x = torch.tensor([high, low], dtype=torch.float64)
    error = torch.sigmoid(intercept + slope * x)
    return tuple(zip(torch.sigmoid(-x).tolist(), error.tolist()))


def log_losses(error: Tensor, wrong: Tensor) -> Tensor:
    """Negative log likelihood of predicted errors, nats, [tokens]."""
    error = error.double().clamp(1e-9, 1 - 1e-9)
    return -torch.where(wrong.bool(), error.log(), torch.log1p(-error))


def choose_curve(fitted: Watched, chosen: Watched) -> Curve:
    """The kind of curve from ``fitted`` that explains ``chosen`` (best but for a standard error),
    fitted again on both."""
    kinds: list[Callable[[Tensor, Tensor], Curve]] = [lambda c, wrong: (), fit_line]
    if len(fitted.wrong) >= ENOUGH and int(fitted.wrong.sum()) >= BINS:
        kinds.append(fit_error_curve)
    both = fitted + chosen
    if len(chosen.wrong) < 2:
        return ()
    curves = [kind(fitted.confidence, fitted.wrong) for kind in kinds]
    loss = [
        log_losses(expected_error(chosen.confidence, 1.0, curve), chosen.wrong) for curve in curves
    ]
    best = min(loss, key=lambda values: float(values.mean()))
    excess = [values - best for values in loss]
    good = [float(e.mean()) <= float(e.std()) / len(e) ** 0.5 for e in excess]
    last = max(i for i, kept in enumerate(good) if kept)
    return kinds[last](both.confidence, both.wrong)


def fit_errors(
    fitted: Watched, chosen: Watched, held: Watched
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options, report): a curve for sure rows and one for others, dropped if worse on ``held``."""
    options: dict[str, Any] = {"confidence_temperature": 1.0, "sure_entropy": SURE_ENTROPY}
    report: dict[str, Any] = {}
    for sure in (True, False):
        tail = "_sure" if sure else ""
        curve = choose_curve(fitted.part(sure), chosen.part(sure))
        seen = held.part(sure)
        own, found = (expected_error(seen.confidence, 1.0, known) for known in ((), curve))
        before, after = (calibration_error(error, seen.wrong) for error in (own, found))
        kept = after <= before  # else the model's own word stands
        options[f"error_curve{tail}"] = tuple(
            tuple(float(f"{v:.10g}") for v in knot) for knot in (curve if kept else ())
        )
        report |= {
            f"error_calibration_before{tail}": round(before, 5),
            f"error_calibration{tail}": round(min(after, before), 5),
            f"error_fit_kept{tail}": kept,
            f"commits_watched{tail}": len(seen.wrong),
            f"commits_wrong{tail}": int(seen.wrong.sum()),
            f"commits_expected_wrong{tail}": round(float((found if kept else own).sum()), 3),
        }
    return options, report


def calibration_error(error: Tensor, wrong: Tensor, bins: int = 10) -> float:
    """Expected calibration error of predicted errors [n], bins of equal count; 0 of none."""
    if not len(error):
        return 0.0
    order = error.argsort()
    gaps = [
        abs(float(e.mean()) - float(w.double().mean())) * len(e)
        for e, w in zip(error[order].tensor_split(bins), wrong[order].tensor_split(bins))
        if len(e)
    ]
    return sum(gaps) / len(error)
