"""The information bottleneck: its cost, its rule, multipliers."""

import math

import pytest
import torch

from probcomp.inference.baselines import VIBConfig, vibnet
from probcomp.inference.baselines.places import Place, Reader
from probcomp.inference.baselines.vibnet import BottleneckGate
from tests.inference.baselines.networks import SHORT, setting


def gate(config: VIBConfig) -> BottleneckGate:
    place = Place("x", "units", 2, (Reader("l", torch.arange(2)),), torch.ones(2), torch.ones(2))
    made = BottleneckGate(place, config)
    with torch.no_grad():
        made.location.copy_(torch.tensor([1.0, 0.2]))
        made.log_sigma.copy_(torch.tensor([-1.0, 0.0]))
    return made


def test_cost_and_multiplier() -> None:
    nats = 0.5 * (math.log1p(math.exp(2.0)) + math.log1p(0.04))
    assert float(gate(VIBConfig()).divergence().detach()) == pytest.approx(nats, rel=1e-5)
    doubled = gate(VIBConfig(multipliers={"x": 2.0}))
    assert float(doubled.divergence().detach()) == pytest.approx(2 * nats, rel=1e-5)


def test_a_unit_goes_when_noise_drowns_it() -> None:
    made = gate(VIBConfig())
    assert (made.score() > made.threshold).tolist() == [True, False]
    torch.testing.assert_close(made.score(), torch.tensor([2.0, 2 * math.log(0.2)]))


def test_draws_have_the_gates_moments() -> None:
    made = gate(VIBConfig())
    draws = made.draw(200_000, torch.Generator().manual_seed(0)).detach()
    torch.testing.assert_close(draws.mean(0), made.mean(), rtol=0, atol=1e-2)
    torch.testing.assert_close(draws.var(0), made.variance(), rtol=2e-2, atol=0)


def test_useless_inputs_are_drowned() -> None:
    found = vibnet(setting(8), VIBConfig(**SHORT, kl_weight=3.0))
    score = torch.tensor(found.meta["scores"]["0.inputs"])
    assert score[:4].min() > score[4:].max()
