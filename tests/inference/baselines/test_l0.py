"""Hard concrete gates: expected counts by sampling, the deterministic gate, prices."""

import math

import pytest
import torch

from probcomp.inference.baselines import L0Config, l0
from probcomp.inference.baselines.l0 import HardConcreteGate
from probcomp.inference.baselines.places import Place, Reader
from tests.inference.baselines.networks import SHORT, setting

DRAWS = 200_000


def gate(config: L0Config | None = None) -> HardConcreteGate:
    fan = torch.tensor([10, 20, 30])
    place = Place("x", "units", 3, (Reader("l", torch.arange(3)),), fan, 2 * fan)
    made = HardConcreteGate(place, config or L0Config())
    with torch.no_grad():
        made.log_alpha.copy_(torch.tensor([-3.0, 0.0, 2.0]))
    return made


@pytest.mark.parametrize(("count", "size"), [("reading", 1), ("owned", 2)])
def test_the_penalty_is_the_price_of_the_expected_count(count, size) -> None:
    made = gate(L0Config(price=0.1, count=count))
    draws = made.draw(DRAWS, torch.Generator().manual_seed(0))
    counted = (size * made.place.fan * (draws > 0)).sum(1).double()
    error = float(counted.std()) / math.sqrt(DRAWS)
    assert float(made.divergence().detach()) == pytest.approx(
        0.1 * float(counted.mean()), abs=0.5 * error
    )


def test_the_threshold_is_where_the_deterministic_gate_closes() -> None:
    made = gate()
    for shift, is_open in ((-1e-3, False), (1e-3, True)):
        with torch.no_grad():
            made.log_alpha.fill_(made.threshold + shift)
        assert bool((made.mean() > 0).all()) is is_open


def test_draws_reach_both_ends_and_have_a_gradient() -> None:
    made = gate()
    draws = made.draw(1000, torch.Generator().manual_seed(0))
    assert bool((draws == 0).any())
    assert bool((draws == 1).any())
    draws.sum().backward()
    assert bool(made.log_alpha.grad.isfinite().all())


def test_one_draw_a_batch_where_asked() -> None:
    from probcomp.inference.training.layers import Noise

    made = gate(L0Config(each_sample=False))
    assert made.scales(64, Noise(torch.Generator().manual_seed(0))).shape == (1, 3)


def test_a_higher_price_leaves_less() -> None:
    kept = []
    for price in (0.05, 2.0):
        found = l0(setting(8), L0Config(**SHORT, price=price))
        kept.append(sum(int(m.sum()) for m in found.masks.values()))
    assert kept[0] > kept[1]
    assert found.meta["expected_weights"].keys() == {"0.inputs", "hidden"}


def test_a_place_may_have_its_own_price() -> None:
    found = l0(setting(8), L0Config(**SHORT, price=1e-6, prices={"0.inputs": 2.0}))
    assert bool(found.keep["hidden"].all())
    assert not bool(found.masks["0.weight"].all())
