"""Accuracy, log-likelihood and calibration of classifiers, with intervals over the test set."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.evaluation.estimate import LEVEL, Comparison, Estimate, check_level
from probcomp.evaluation.predict import Predictions

DRAWS = 200_000
"""Posterior draws behind a paired interval: quantile error below 1 % of the interval's width."""


@dataclass(frozen=True)
class Reliability:
    """Stated confidence against observed accuracy, in equal bins of confidence.

    Attributes:
        name: whose predictions.
        ece: expected calibration error, sum_b n_b/n |accuracy_b - confidence_b|.
        confidence: mean confidence per occupied bin.
        accuracy: share correct per occupied bin.
        count: samples per occupied bin.
    """

    name: str
    ece: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


def estimate_accuracy(correct: Tensor, *, level: float = LEVEL, kind: str = "Jeffreys") -> Estimate:
    """Share of correct samples with an interval.

    ``"Jeffreys"``: equal tails of Beta(k + 1/2, n - k + 1/2), the posterior under the
    Beta(1/2, 1/2) prior, with the lower end 0 at k = 0 and the upper end 1 at k = n (Brown, Cai
    and DasGupta 2001, section 3.1.2). ``"Wilson"``: the score interval (Wilson 1927).

    Args:
        correct: [samples], boolean.
        level: probability of the interval.
        kind: ``"Jeffreys"`` or ``"Wilson"``.
    """
    from scipy import stats

    n, k = _counts(correct)
    tail = (1 - check_level(level)) / 2
    if kind == "Jeffreys":
        low = 0.0 if k == 0 else stats.beta.ppf(tail, k + 0.5, n - k + 0.5)
        high = 1.0 if k == n else stats.beta.isf(tail, k + 0.5, n - k + 0.5)
    elif kind == "Wilson":
        z = stats.norm.isf(tail)
        centre = (k + z * z / 2) / (n + z * z)
        half = z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
        low, high = max(0.0, centre - half), min(1.0, centre + half)
    else:
        raise InputError(f"unknown interval {kind!r}; expected 'Jeffreys' or 'Wilson'")
    return Estimate(k / n, float(low), float(high), level, kind, n)


def paired_difference(
    dense: Tensor, compressed: Tensor, *, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """Accuracy of ``compressed`` minus that of ``dense`` on the same samples.

    The four cells of the agreement table (both right, only one right, both wrong) have the
    posterior Dirichlet(counts + 1/2); the interval holds the equal-tailed ``level`` of
    p(only compressed right) - p(only dense right), by `DRAWS` seeded draws. Samples on which the
    two agree carry no difference, so it is far narrower than two separate intervals.

    Args:
        dense: [samples], boolean.
        compressed: [samples], boolean, the same samples in the same order.
        level: probability of the interval.
        seed: seed of the draws.
    """
    n, right = _counts(dense)
    other, right_after = _counts(compressed)
    if n != other:
        raise InputError(f"a paired difference needs the same samples, got {n} and {other}")
    gained = int((compressed.bool() & ~dense.bool()).sum())
    lost = int((dense.bool() & ~compressed.bool()).sum())
    agree = n - gained - lost
    # The two agreeing cells only matter through their sum: 1/2 + 1/2 pseudo-counts.
    weights = np.random.default_rng(seed).dirichlet((gained + 0.5, lost + 0.5, agree + 1.0), DRAWS)
    tail = (1 - check_level(level)) / 2
    low, high = np.quantile(weights[:, 0] - weights[:, 1], (tail, 1 - tail))
    return Estimate((right_after - right) / n, float(low), float(high), level, "Dirichlet 2x2", n)


def mean_interval(values: Tensor, *, level: float = LEVEL) -> Estimate:
    """Mean of per-sample values with the Student-t interval mean +- t * sd / sqrt(n).

    With one sample there is no spread to measure, and the interval is infinite.
    """
    from scipy import stats

    n = values.numel()
    if n == 0:
        raise InputError("a mean needs at least one sample")
    mean = float(values.double().mean())
    tail = (1 - check_level(level)) / 2
    if n == 1:
        return Estimate(mean, -np.inf, np.inf, level, "Student t", n)
    half = float(stats.t.isf(tail, n - 1) * values.double().std() / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, level, "Student t", n)


def compare_accuracy(
    dense: Predictions, compressed: Predictions, *, level: float = LEVEL, seed: int = 0
) -> Comparison:
    """Accuracies of both models and their paired difference."""
    return Comparison(
        estimate_accuracy(dense.correct, level=level),
        estimate_accuracy(compressed.correct, level=level),
        paired_difference(dense.correct, compressed.correct, level=level, seed=seed),
    )


def compare_nll(dense: Predictions, compressed: Predictions, *, level: float = LEVEL) -> Comparison:
    """Mean negative log-likelihoods in nats per sample, and their paired difference."""
    return Comparison(
        mean_interval(dense.nll, level=level),
        mean_interval(compressed.nll, level=level),
        mean_interval(compressed.nll - dense.nll, level=level),
    )


def reliability(name: str, predictions: Predictions, *, bins: int = 10) -> Reliability:
    """Reliability diagram and expected calibration error (Naeini, Cooper, Hauskrecht 2015).

    Bin b of ``bins`` holds the samples whose highest probability lies in (b/bins, (b+1)/bins].
    """
    confidence = predictions.log_probability.max(1).values.exp()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(index, minlength=bins)
    mean = torch.bincount(index, confidence, minlength=bins) / count
    right = torch.bincount(index, predictions.correct.double(), minlength=bins) / count
    used = count > 0
    share = count[used] / count.sum()
    ece = float((share * (right[used] - mean[used]).abs()).sum())
    return Reliability(
        name,
        ece,
        tuple(mean[used].tolist()),
        tuple(right[used].tolist()),
        tuple(count[used].tolist()),
    )


def _counts(correct: Tensor) -> tuple[int, int]:
    if correct.dim() != 1 or correct.numel() == 0 or correct.dtype != torch.bool:
        got = f"{tuple(correct.shape)} {correct.dtype}"
        raise InputError(f"expected a boolean tensor [samples], not empty; got {got}")
    return correct.numel(), int(correct.sum())
