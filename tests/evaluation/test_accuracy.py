import numpy as np
import pytest
import torch
from scipy import stats

from probcomp.errors import InputError
from probcomp.evaluation import (
    Predictions,
    compare_accuracy,
    compare_nll,
    estimate_accuracy,
    mean_interval,
    paired_difference,
    reliability,
)

COVERAGE_SLACK = 0.025
"""Counts are discrete, so coverage at one n and p differs from 95 %: by 2.03 % at worst here."""
MONTE_CARLO = 2e-3
"""Quantile error of 200,000 draws, relative to differences of order 0.1: below 1e-3."""


def boolean(right: int, n: int) -> torch.Tensor:
    return torch.arange(n) < right


@pytest.mark.parametrize("kind", ["Jeffreys", "Wilson"])
@pytest.mark.parametrize(("n", "p"), [(50, 0.9), (360, 0.97), (40, 0.5)])
def test_intervals_cover_the_truth(kind, n, p) -> None:
    """Coverage by exact enumeration over all outcomes."""
    inside = 0.0
    for k in range(n + 1):
        found = estimate_accuracy(boolean(k, n), kind=kind)
        inside += stats.binom.pmf(k, n, p) * (found.low <= p <= found.high)
    assert abs(inside - 0.95) < COVERAGE_SLACK


def test_jeffreys_is_the_beta_posterior() -> None:
    found = estimate_accuracy(boolean(9, 12), level=0.8)
    posterior = stats.beta(9.5, 3.5)
    assert posterior.cdf(found.low) == pytest.approx(0.1, abs=1e-10)
    assert posterior.sf(found.high) == pytest.approx(0.1, abs=1e-10)
    assert (found.value, found.n, found.level, found.kind) == (0.75, 12, 0.8, "Jeffreys")


def test_wilson_solves_the_score_equation() -> None:
    """At the ends, |k/n - p| = z sqrt(p (1 - p) / n)."""
    found = estimate_accuracy(boolean(9, 12), kind="Wilson")
    z = stats.norm.ppf(0.975)
    for end in (found.low, found.high):
        assert abs(0.75 - end) == pytest.approx(z * np.sqrt(end * (1 - end) / 12), rel=1e-10)


def test_ends_of_the_range() -> None:
    none, all_right = estimate_accuracy(boolean(0, 9)), estimate_accuracy(boolean(9, 9))
    assert none.low == 0.0
    assert all_right.high == 1.0
    assert none.high == pytest.approx(1 - all_right.low, abs=1e-12)


def test_paired_difference_against_quadrature() -> None:
    """The density of p_gained - p_lost by integrating the Dirichlet over a grid."""
    n, gained, lost = 60, 4, 11
    dense = torch.cat((torch.ones(lost), torch.zeros(gained), torch.ones(n - gained - lost))).bool()
    after = torch.cat((torch.zeros(lost), torch.ones(gained), torch.ones(n - gained - lost))).bool()
    found = paired_difference(dense, after)
    assert found.value == pytest.approx((gained - lost) / n)
    grid = (np.arange(2000) + 0.5) / 2000
    a, b = np.meshgrid(grid, grid, indexing="ij")
    rest = 1 - a - b
    with np.errstate(divide="ignore", invalid="ignore"):
        log_density = (gained - 0.5) * np.log(a) + (lost - 0.5) * np.log(b)
        log_density += (n - gained - lost) * np.log(rest)
    density = np.where(rest > 0, np.exp(log_density - np.nanmax(log_density)), 0.0)
    for end, mass in ((found.low, 0.025), (found.high, 0.975)):
        below = density[(a - b) < end].sum() / density.sum()
        assert below == pytest.approx(mass, abs=3e-3)  # draws (1e-3) and grid (2e-3)


def test_paired_difference_is_seeded_symmetric_and_narrow() -> None:
    dense, after = boolean(97, 100), boolean(95, 100)
    one, same = paired_difference(dense, after), paired_difference(dense, after)
    assert one == same
    back = paired_difference(after, dense)
    assert back.value == -one.value
    assert back.low == pytest.approx(-one.high, abs=MONTE_CARLO)
    unpaired = estimate_accuracy(dense)
    assert one.high - one.low < unpaired.high - unpaired.low


def test_mean_interval_is_students() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, 3.75, stats.sem(values.numpy()))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)
    assert mean_interval(values[:1]).high == np.inf


def predictions(probability, targets) -> Predictions:
    return Predictions(torch.tensor(probability).double().log(), torch.tensor(targets))


def test_comparisons_are_paired() -> None:
    dense = predictions([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
    after = predictions([[0.8, 0.2], [0.7, 0.3], [0.3, 0.7]], [0, 1, 1])
    found = compare_nll(dense, after)
    by_hand = np.log([0.9 / 0.8, 0.8 / 0.3, 0.4 / 0.7])
    assert found.difference.value == pytest.approx(by_hand.mean())
    half = stats.t.ppf(0.975, 2) * by_hand.std(ddof=1) / np.sqrt(3)
    assert found.difference.high == pytest.approx(by_hand.mean() + half)
    shares = compare_accuracy(dense, after)
    assert (shares.dense.value, shares.compressed.value) == (2 / 3, 2 / 3)
    assert shares.difference.value == 0


def test_reliability_by_hand() -> None:
    found = reliability(
        "m", predictions([[0.95, 0.05], [0.91, 0.09], [0.45, 0.55], [0.42, 0.58]], [0, 1, 1, 1])
    )
    assert found.count == (2, 2)
    assert found.confidence == pytest.approx((0.565, 0.93))
    assert found.accuracy == pytest.approx((1.0, 0.5))
    assert found.ece == pytest.approx(0.5 * (0.435 + 0.43))


def test_honest_confidence_has_a_small_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(20_000, generator=generator) * 0.5 + 0.5
    targets = (torch.rand(20_000, generator=generator) > p).long()
    honest = Predictions(torch.stack((p, 1 - p), 1).double().log(), targets)
    assert reliability("m", honest).ece < 0.02  # ten bins of 2,000: noise 0.01


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimate_accuracy(boolean(0, 0)),
        lambda: estimate_accuracy(torch.ones(3)),
        lambda: estimate_accuracy(boolean(1, 2), level=1.0),
        lambda: estimate_accuracy(boolean(1, 2), kind="normal"),
        lambda: paired_difference(boolean(1, 2), boolean(1, 3)),
        lambda: mean_interval(torch.zeros(0)),
    ],
)
def test_refuses(call) -> None:
    with pytest.raises(InputError):
        call()
