"""Spike-and-slab: closed forms, the relaxed draw, the prior of the theory."""

import math

import pytest
import torch
from torch import nn

from probcomp.inference.baselines import SpikeSlabConfig, spike_slab
from probcomp.inference.baselines.spike_slab import (
    SpikeSlabWeights,
    _Relaxed,
    prior_log_odds,
)
from tests.inference.baselines.networks import SHORT, setting


def layer(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(3, 2).double()
    for name in ("weight", "weight_log_sigma", "weight_log_odds"):
        value = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        made.register_parameter(name, nn.Parameter(value))
    return made


def test_divergence_against_sampling() -> None:
    """``E_q[ln q - ln p]`` of a mixture with an atom: the densities of the slab, or the atoms."""
    made, prior, slab = layer(), -1.5, 0.7
    found = float(SpikeSlabWeights({"w": made}, prior, slab).value().detach())
    generator = torch.Generator().manual_seed(1)
    draws = 200_000
    gamma = torch.sigmoid(made.weight_log_odds.detach())
    lam = 1 / (1 + math.exp(-prior))
    on = torch.rand(draws, 2, 3, generator=generator, dtype=torch.float64) < gamma
    sigma = made.weight_log_sigma.detach().exp()
    noise = torch.randn(draws, 2, 3, generator=generator, dtype=torch.float64)
    value = made.weight.detach() + sigma * noise
    q = torch.distributions.Normal(made.weight.detach(), sigma).log_prob(value)
    p = torch.distributions.Normal(0.0, math.sqrt(slab)).log_prob(value)
    term = torch.where(on, (gamma / lam).log() + q - p, ((1 - gamma) / (1 - lam)).log()).sum((1, 2))
    error = float(term.std()) / math.sqrt(draws)
    assert found == pytest.approx(float(term.mean()), abs=5 * error)


def test_closed_gradients_are_those_of_the_value() -> None:
    made = layer()
    term = SpikeSlabWeights({"w": made}, -1.5, 0.7)
    term.value().backward()
    expected = [p.grad.clone() for p in (made.weight, made.weight_log_sigma, made.weight_log_odds)]
    for found, wanted in zip(term.slope(made), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_relaxed_draw_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)
    ]
    noise = torch.randn(4, dtype=torch.float64, generator=generator)
    logistic = torch.randn(4, dtype=torch.float64, generator=generator)

    def draw(mean, log_sigma, log_odds):
        return _Relaxed.apply(mean, log_sigma, log_odds, (noise, logistic.clone(), 0.5))

    assert torch.autograd.gradcheck(draw, inputs)


def test_prior_inclusion_of_the_theory() -> None:
    shapes = [(300, 784), (100, 300), (10, 100)]
    width = math.sqrt(300 * 100)
    price = math.log(266_200) + 0.1 * (3 * math.log(width) + math.log(math.sqrt(60_000) * 784))
    odds = prior_log_odds(shapes, 60_000)
    assert 1 / (1 + math.exp(-odds)) == pytest.approx(math.exp(-price))


def test_the_posterior_is_one_and_the_rule_is_the_median_model() -> None:
    config = SpikeSlabConfig(**SHORT, log_odds=-3.0)
    found = spike_slab(setting(8), config)
    for name, weight in found.posterior.weights.items():
        assert torch.equal(weight.probability, torch.sigmoid(weight.log_odds))
        assert not (found.masks[name] & (weight.probability <= 0.5)).any()
    probability = found.posterior.weights["0.weight"].probability.mean(0)
    assert probability[:4].min() > probability[4:].max()
