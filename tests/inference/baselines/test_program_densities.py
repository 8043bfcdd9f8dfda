"""Densities of the baselines' programs: they integrate to one, and closed divergences are true."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import integrate
from torch.distributions import kl_divergence

from probcomp.inference.baselines.program_densities import (
    LOG_UNIFORM_CONSTANT,
    ProperLogUniform,
    RootGamma,
    RootInverseGamma,
    SpikeSlab,
)
from probcomp.inference.programs import SPREAD


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.double)


def test_the_stand_in_of_the_log_uniform_prior_is_normalised() -> None:
    prior = ProperLogUniform()

    def mass(x: float) -> float:  # over ln |w|, both signs
        w = torch.tensor(math.exp(x), dtype=torch.double)
        return 2 * math.exp(float(prior.log_prob(w)) + x)

    assert integrate.quad(mass, -SPREAD, SPREAD)[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.05, 0.3, 1.0])
def test_the_log_uniform_divergence_is_near_quadrature(sharpness: float) -> None:
    """The published approximation; exact to 0.02 nats with the constant of the stand-in."""
    q = dist.Normal(tensor(0.5), tensor(0.5 * sharpness))
    prior = ProperLogUniform()

    def part(w: float) -> float:
        at = tensor(w)
        return math.exp(float(q.log_prob(at))) * float(q.log_prob(at) - prior.log_prob(at))

    reach = 8 * 0.5 * sharpness
    truth = integrate.quad(part, 0.5 - reach, 0.5 + reach, points=[0.0], limit=400)[0]
    assert float(kl_divergence(q, prior)) == pytest.approx(truth, abs=0.02)
    assert math.isfinite(LOG_UNIFORM_CONSTANT)


@pytest.mark.parametrize(
    ("prior", "sign"),
    [(RootGamma(tensor(0.5), tensor(2.0)), 1), (RootInverseGamma(tensor(0.5), tensor(1.5)), -1)],
    ids=["gamma", "inverse gamma"],
)
def test_log_normal_divergences_are_those_of_quadrature(prior, sign: int) -> None:
    q = dist.LogNormal(tensor(0.2 * sign), tensor(0.4))

    def part(x: float) -> float:
        at = tensor(math.exp(x))
        return math.exp(float(q.log_prob(at)) + x) * float(q.log_prob(at) - prior.log_prob(at))

    truth = integrate.quad(part, -4, 4)[0]
    assert float(kl_divergence(q, prior)) == pytest.approx(truth, abs=1e-6)


def spike_slab() -> SpikeSlab:
    return SpikeSlab(tensor(0.4), tensor(0.3), tensor(0.2))


def test_a_spike_and_slab_has_all_its_mass() -> None:
    q = spike_slab()
    slab = integrate.quad(lambda w: math.exp(float(q.log_prob(tensor(w)))), -1.5, 2)[0]
    assert slab + math.exp(float(q.log_prob(tensor(0.0)))) == pytest.approx(1.0, abs=1e-8)


def test_draws_of_a_spike_and_slab_have_its_moments_and_gradients() -> None:
    torch.manual_seed(0)
    odds = torch.tensor(0.4, requires_grad=True)
    q = SpikeSlab(odds, torch.tensor(0.3), torch.tensor(0.2)).expand((40_000,))
    draws = q.rsample()
    inclusion = 1 / (1 + math.exp(-0.4))
    assert float((draws != 0).float().mean()) == pytest.approx(inclusion, abs=0.01)
    assert float(draws.mean()) == pytest.approx(0.3 * inclusion, abs=0.01)
    draws.mean().backward()
    # The relaxation is biased; its sign and size are those of d E[w] / d odds.
    assert odds.grad is not None
    assert float(odds.grad) == pytest.approx(0.3 * inclusion * (1 - inclusion), rel=0.2)


def test_the_spike_and_slab_divergence_is_that_of_both_parts() -> None:
    q, p = spike_slab(), SpikeSlab(tensor(-1.0), tensor(0.0), tensor(1.0))

    def part(w: float) -> float:
        at = tensor(w)
        return math.exp(float(q.log_prob(at))) * float(q.log_prob(at) - p.log_prob(at))

    zero = tensor(0.0)
    spike = math.exp(float(q.log_prob(zero))) * float(q.log_prob(zero) - p.log_prob(zero))
    truth = spike + integrate.quad(part, -1.5, 2)[0]
    assert float(kl_divergence(q, p)) == pytest.approx(truth, abs=1e-7)
