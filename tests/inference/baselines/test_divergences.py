"""Every closed form against numerical quadrature or sampling."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from probcomp.inference.baselines import divergences as kl

QUADRATURE = 1e-6
"""Largest error allowed of a closed form: what adaptive quadrature reaches with room to spare."""


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def quadrature(log_posterior, log_prior, low: float, high: float) -> float:
    """``int q (ln q - ln p)``."""

    def integrand(x: float) -> float:
        log_q = float(log_posterior(x))
        return math.exp(log_q) * (log_q - float(log_prior(x)))

    return scipy.integrate.quad(integrand, low, high, limit=400, epsabs=1e-10)[0]


def log_uniform_exact(log_alpha: float) -> float:
    """``KL(N(1, alpha) || 1/|w|)`` without its constant, by quadrature on each side of zero."""
    sigma = math.exp(log_alpha / 2)
    normal = scipy.stats.norm(1, sigma)
    near, far = max(1e-12, 1 - 12 * sigma), 1 + 12 * sigma

    def term(x: float) -> float:
        return math.exp(normal.logpdf(x)) * math.log(abs(x))

    inner = sum(
        scipy.integrate.quad(term, a, b, limit=400)[0]
        for a, b in ((near, 1.0), (1.0, far), (1 - 12 * sigma, -1e-12))
        if a < b
    )
    return -normal.entropy() + inner


def test_log_uniform_approximation_is_as_close_as_stated() -> None:
    """Molchanov et al. state a close fit; the error is measured here, constant taken off."""
    # For large alpha the divergence goes to E ln|e| - entropy of a unit Gaussian.
    constant = -0.5 * (0.5772156649015329 + math.log(2)) - 0.5 * math.log(2 * math.pi * math.e)
    places = torch.linspace(-8, 8, 33, dtype=torch.float64)
    exact = torch.tensor([log_uniform_exact(float(a)) - constant for a in places])
    error = (kl.log_uniform(places) - exact).abs().max()
    assert 1e-3 < error < kl.LOG_UNIFORM_ERROR  # an approximation, and no better than stated


def test_log_uniform_slope_is_its_derivative() -> None:
    a = torch.linspace(-10, 10, 41, dtype=torch.float64, requires_grad=True)
    kl.log_uniform(a).sum().backward()
    torch.testing.assert_close(kl.log_uniform_slope(a.detach()), a.grad)


@pytest.mark.parametrize(("mean", "sigma", "variance"), [(0.3, 0.2, 1.0), (-2.0, 1.5, 0.4)])
def test_normal(mean: float, sigma: float, variance: float) -> None:
    found = kl.normal(tensor(mean), tensor(math.log(sigma)), variance)
    exact = quadrature(
        scipy.stats.norm(mean, sigma).logpdf,
        scipy.stats.norm(0, math.sqrt(variance)).logpdf,
        mean - 12 * sigma,
        mean + 12 * sigma,
    )
    assert float(found) == pytest.approx(exact, abs=QUADRATURE)


CASES = [(0.0, 0.1), (-1.5, 0.7), (2.0, 0.4), (0.5, 1.2)]


@pytest.mark.parametrize("scale", [1.0, 0.04, 3.0])
@pytest.mark.parametrize(("mean", "sigma"), CASES)
def test_log_normal_against_gamma(mean: float, sigma: float, scale: float) -> None:
    """In ``u = ln x``, where the prior's density gains the factor ``x``."""
    prior = scipy.stats.gamma(0.5, scale=scale)
    exact = quadrature(
        scipy.stats.norm(mean, sigma).logpdf,
        lambda u: prior.logpdf(math.exp(u)) + u,
        mean - 10 * sigma,
        mean + 10 * sigma,
    )
    found = kl.log_normal_gamma(tensor(mean), tensor(math.log(sigma)), scale)
    assert float(found) == pytest.approx(exact, rel=QUADRATURE, abs=QUADRATURE)


@pytest.mark.parametrize(("mean", "sigma"), CASES)
def test_log_normal_against_inverse_gamma(mean: float, sigma: float) -> None:
    prior = scipy.stats.invgamma(0.5)
    exact = quadrature(
        scipy.stats.norm(mean, sigma).logpdf,
        lambda u: prior.logpdf(math.exp(u)) + u,
        mean - 10 * sigma,
        mean + 10 * sigma,
    )
    found = kl.log_normal_inverse_gamma(tensor(mean), tensor(math.log(sigma)))
    assert float(found) == pytest.approx(exact, rel=QUADRATURE, abs=QUADRATURE)


def test_hard_concrete_gates_are_open_as_often_as_stated() -> None:
    beta, low, high = 2 / 3, -0.1, 1.1
    u = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for log_alpha in (-2.0, 0.0, 1.5):
        s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + log_alpha) / beta)
        z = (s * (high - low) + low).clamp(0, 1)
        expected = float(kl.hard_concrete_open(tensor(log_alpha), beta, low, high))
        # Four standard errors of 400 thousand coin flips.
        assert float((z > 0).double().mean()) == pytest.approx(expected, abs=4 * 0.5 / 632)


@pytest.mark.parametrize(("mean", "sigma"), [(0.7, 0.3), (0.1, 1.0), (-2.0, 0.05)])
def test_bottleneck_is_the_least_divergence_from_a_centred_gaussian(mean, sigma) -> None:
    found = float(kl.bottleneck(tensor(mean), tensor(math.log(sigma))))
    best = mean**2 + sigma**2
    at_best = float(kl.normal(tensor(mean), tensor(math.log(sigma)), best))
    assert found == pytest.approx(at_best, abs=1e-12)
    for factor in (0.9, 1.1):
        assert float(kl.normal(tensor(mean), tensor(math.log(sigma)), factor * best)) > found


@pytest.mark.parametrize(("odds", "prior"), [(0.0, 0.0), (3.0, -4.0), (-20.0, 2.0)])
def test_bernoulli_is_the_sum_over_both_values(odds: float, prior: float) -> None:
    p, r = 1 / (1 + math.exp(-odds)), 1 / (1 + math.exp(-prior))
    exact = p * math.log(p / r) + (1 - p) * (math.log1p(-p) - math.log1p(-r))
    assert float(kl.bernoulli(tensor(odds), prior)) == pytest.approx(exact, abs=1e-8)
