"""Bayesian compression: gates, gradients, posterior variance."""

import math

import pytest
import torch
from torch import nn

from probcomp.inference.baselines import GroupConfig, bc_gnj
from probcomp.inference.baselines.bayesian_compression import (
    HorseshoeGate,
    JeffreysGate,
    NormalWeights,
    move_scales,
    weight_variance,
)
from probcomp.inference.baselines.places import Place, Reader, find_places
from probcomp.inference.baselines.preparing import working_copy
from tests.inference.baselines.networks import SHORT, setting

DRAWS = 200_000
TWO_PERCENT = 2e-2
"""Second moments of 200 thousand draws."""


def place() -> Place:
    return Place("x", "units", 3, (Reader("0", torch.arange(3)),), torch.ones(3), torch.ones(3))


def horseshoe() -> HorseshoeGate:
    gate = HorseshoeGate(place(), GroupConfig(tau=1.0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in gate.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        gate.shared_log_sigma.fill_(-1.0)
        gate.local_log_sigma.fill_(-1.5)
    return gate


def jeffreys() -> JeffreysGate:
    gate = JeffreysGate(place(), GroupConfig())
    with torch.no_grad():
        gate.location.copy_(torch.tensor([1.0, -0.5, 0.1]))
        gate.log_sigma.copy_(torch.tensor([-2.0, -1.0, 0.0]))
    return gate


@pytest.mark.parametrize("make", [jeffreys, horseshoe])
def test_moments_are_those_of_the_draws(make) -> None:
    gate = make()
    draws = gate.draw(DRAWS, torch.Generator().manual_seed(1)).detach()
    torch.testing.assert_close(draws.mean(0), gate.mean(), rtol=TWO_PERCENT, atol=5e-3)
    torch.testing.assert_close(draws.var(0), gate.variance(), rtol=TWO_PERCENT, atol=1e-4)


def test_horseshoe_scales_of_a_layer_share_a_factor() -> None:
    logs = horseshoe().draw(DRAWS, torch.Generator().manual_seed(1)).detach().log()
    shared = 0.25 * 2 * math.exp(-2.0)
    covariance = torch.cov(logs.T)
    off = covariance[~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full((6,), shared), rtol=TWO_PERCENT, atol=0)


def test_horseshoe_score_is_the_log_of_the_mode() -> None:
    gate = horseshoe()
    mean, variance = (t.detach().double() for t in gate.log_moments())
    grid = torch.linspace(-6, 4, 400_001, dtype=torch.float64)
    for i in range(3):
        # Density of a log-normal at z = exp(u): the Gaussian's at u, over z.
        log_density = -0.5 * (grid - mean[i]).square() / variance[i] - grid
        peak = float(grid[log_density.argmax()])
        assert peak == pytest.approx(float(gate.score()[i]), abs=1e-4)


def test_horseshoe_starts_at_one() -> None:
    gate = HorseshoeGate(place(), GroupConfig())
    torch.testing.assert_close(gate.mean(), torch.ones(3), rtol=1e-3, atol=0)


def test_closed_gradients_are_those_of_the_value() -> None:
    made = nn.Linear(3, 2).double()
    sigma = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made.register_parameter("weight_log_sigma", nn.Parameter(sigma))
    made.variance = None
    term = NormalWeights({"w": made}, {"w": 0.5})
    term.value().backward()
    expected = made.weight.grad.clone(), made.weight_log_sigma.grad.clone()
    term.add_gradient(2.0)
    torch.testing.assert_close(made.weight.grad, 3 * expected[0])
    torch.testing.assert_close(made.weight_log_sigma.grad, 3 * expected[1])
    term.after_step()
    assert float(made.weight_log_sigma.detach().max()) <= 0.5 * math.log(0.5) + 1e-12


def test_posterior_variance_of_a_product() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.register_parameter("weight_log_sigma", nn.Parameter(torch.full((2, 3), -1.0)))
    gate = jeffreys()
    found = weight_variance({"0.weight": layer}, [gate])["0.weight"]
    generator = torch.Generator().manual_seed(1)
    z = gate.draw(DRAWS, generator).detach()[:, None]
    noise = torch.randn(DRAWS, 2, 3, generator=generator) * math.exp(-1.0)
    sampled = (z * (layer.weight.detach() + noise)).var(0)
    torch.testing.assert_close(found, sampled, rtol=TWO_PERCENT, atol=1e-4)


def test_the_first_layers_variance_is_clipped_and_bits_are_recorded() -> None:
    found = bc_gnj(setting(8), GroupConfig(**SHORT))
    assert set(found.meta["bits"]) == {"0.weight", "2.weight"}
    assert all(0 <= b["significand"] <= 23 for b in found.meta["bits"].values())
    assert set(found.meta["scores"]) == {"0.inputs", "hidden"}


@pytest.mark.parametrize("make", [JeffreysGate, HorseshoeGate])
def test_moving_scales_out_of_the_weights_leaves_the_product(make) -> None:
    given = setting(4)
    model, names = working_copy(given)
    dense = {n: model.get_parameter(f"{n}.weight").detach().clone() for n in names}
    gates = [make(place, GroupConfig()) for place in find_places(model, given.units, names)]
    move_scales(model, gates)
    for gate in gates:
        for reader in gate.place.readers:
            weight = model.get_parameter(f"{reader.layer}.weight").detach()
            # The mean of a log-normal is above its median by the variance at the start.
            product = weight * reader.spread(gate.mean(), 1.0)
            torch.testing.assert_close(product, dense[reader.layer], rtol=1e-3, atol=1e-7)
            used = dense[reader.layer].abs().sum(0) > 0
            one = weight.square().mean(0)[used]
            torch.testing.assert_close(one, torch.ones_like(one), rtol=1e-3, atol=1e-3)
