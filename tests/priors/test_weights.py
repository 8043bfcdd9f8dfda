"""Spike-and-slab weights: Student-t margins, crossings, limits."""

import math

import pytest
import scipy.stats
import torch

from probcomp.errors import InputError
from probcomp.priors import SpikeSlabGamma, SpikeSlabGaussian

SAMPLES = 200_000
THREE_DIGITS = 1e-3


def test_log_prob_is_student_t() -> None:
    prior = SpikeSlabGamma(a=1.5, b=0.7, a_spike=2.0, b_spike=0.01)
    weight = torch.linspace(-3, 3, 31, dtype=torch.float64)
    slab = scipy.stats.t(df=3.0, scale=math.sqrt(0.7 / 1.5)).logpdf(weight)
    spike = scipy.stats.t(df=4.0, scale=math.sqrt(0.01 / 2.0)).logpdf(weight)
    on, off = torch.ones(31), torch.zeros(31)
    torch.testing.assert_close(prior.log_prob(weight, on), torch.tensor(slab))
    torch.testing.assert_close(prior.log_prob(weight, off), torch.tensor(spike))
    torch.testing.assert_close(prior.evidence(weight), torch.tensor(slab - spike))


@pytest.mark.parametrize("on", [True, False])
def test_samples_have_student_t_quantiles(on: bool) -> None:
    """Three-layer draws against the closed margin: Kolmogorov-Smirnov, failure budget 1e-6."""
    prior = SpikeSlabGamma(a=1.5, b=0.7, a_spike=2.0, b_spike=0.01)
    support = torch.full((SAMPLES,), on)
    draws = prior.sample(support, generator=torch.Generator().manual_seed(0))
    a, b = (1.5, 0.7) if on else (2.0, 0.01)
    margin = scipy.stats.t(df=2 * a, scale=math.sqrt(b / a))
    assert scipy.stats.kstest(draws.numpy(), margin.cdf).pvalue > 1e-6
    quantiles = torch.quantile(draws, torch.tensor([0.25, 0.75], dtype=torch.float64))
    expected = torch.tensor(margin.ppf([0.25, 0.75]))
    # A quartile of 200 thousand draws has a standard error of 0.5 %.
    torch.testing.assert_close(quantiles, expected, rtol=1e-2, atol=0)


@pytest.mark.slow
def test_quantiles_of_many_samples_to_three_digits() -> None:
    prior = SpikeSlabGamma(a=1.5, b=0.7, a_spike=2.0, b_spike=0.01)
    draws = prior.sample(torch.ones(8_000_000), generator=torch.Generator().manual_seed(0)).abs()
    margin = scipy.stats.t(df=3.0, scale=math.sqrt(0.7 / 1.5))
    for level in (0.5, 0.75, 0.9):
        expected = margin.ppf(0.5 + level / 2)
        found = float(draws.kthvalue(round(level * len(draws))).values)
        assert found == pytest.approx(expected, rel=THREE_DIGITS)  # a standard error is 4e-4


def test_evidence_is_bounded_both_ways() -> None:
    prior = SpikeSlabGamma(1.0, 1.0, 1.0, 0.01)
    ends = prior.evidence(torch.tensor([0.0, 1e6], dtype=torch.float64))
    assert ends[0].item() == pytest.approx(-0.5 * math.log(100))
    assert ends[1].item() == pytest.approx(math.log(100), abs=1e-6)


@pytest.mark.parametrize(
    "prior",
    [
        SpikeSlabGamma(1.0, 1.0, 1.0, 1e-4),
        SpikeSlabGamma.for_scale(0.01, kappa=1e-3, shape=2.0),
        SpikeSlabGamma(1.5, 1.0, 2.0, 0.01),
        SpikeSlabGaussian(0.5, 0.002),
    ],
)
def test_crossing_is_where_the_evidence_vanishes(
    prior: SpikeSlabGamma | SpikeSlabGaussian,
) -> None:
    crossing = torch.tensor(prior.crossing(), dtype=torch.float64)
    assert prior.evidence(crossing).item() == pytest.approx(0, abs=1e-9)


def test_known_crossing() -> None:
    """a = b = 1, b_spike = 1e-4: 6.4 % of the slab's scale."""
    assert SpikeSlabGamma(1.0, 1.0, 1.0, 1e-4).crossing() == pytest.approx(0.064, abs=5e-4)


def test_equal_spike_and_slab_say_nothing() -> None:
    prior = SpikeSlabGamma(1.0, 0.5, 1.0, 0.5)
    weight = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(prior.evidence(weight), torch.zeros(9))
    with pytest.raises(InputError, match="does not change sign"):
        prior.crossing()


def test_large_shapes_approach_the_gaussian_evidence() -> None:
    weight = torch.linspace(-1, 1, 21, dtype=torch.float64)
    gaussian = SpikeSlabGaussian(slab=0.5, spike=0.02).evidence(weight)
    errors = []
    for shape in (1e3, 1e5):
        gamma = SpikeSlabGamma(shape, shape * 0.5, shape, shape * 0.02).evidence(weight)
        errors.append((gamma - gaussian).abs().max().item())
    # The difference is w^4 / (v^2 shape) to leading order.
    assert errors[0] < 1.0
    assert errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_gaussian_estimate_integrates_the_weight() -> None:
    """Against numerical integration of the likelihood over slab and spike."""
    prior = SpikeSlabGaussian(0.5, 0.02)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    likelihood = scipy.stats.norm(0.6, math.sqrt(0.1)).pdf(grid)
    slab = (scipy.stats.norm(0, math.sqrt(0.5)).pdf(grid) * likelihood).sum()
    spike = (scipy.stats.norm(0, math.sqrt(0.02)).pdf(grid) * likelihood).sum()
    one = torch.tensor(1.0, dtype=torch.float64)
    found = prior.evidence_of_estimate(0.6 * one, 0.1 * one).item()
    assert found == pytest.approx(math.log(slab / spike), abs=1e-9)


def test_point_mass() -> None:
    prior = SpikeSlabGaussian(0.5, 0.0)
    weight = torch.tensor([0.0, 0.3])
    assert prior.log_prob(weight, torch.zeros(2)).tolist() == [0, -math.inf]
    assert prior.crossing() == 0
    with pytest.raises(InputError, match="evidence_of_estimate"):
        prior.evidence(weight)
    assert bool(prior.evidence_of_estimate(weight, torch.tensor(0.1)).isfinite().all())
    assert bool((prior.sample(torch.zeros(5)) == 0).all())


def test_gaussian_samples() -> None:
    prior = SpikeSlabGaussian(0.5, 0.02)
    draws = prior.sample(torch.ones(SAMPLES), generator=torch.Generator().manual_seed(0))
    assert scipy.stats.kstest(draws.numpy(), scipy.stats.norm(0, 0.5**0.5).cdf).pvalue > 1e-6
