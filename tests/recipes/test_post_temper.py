"""Tempering against known power laws, and what luck may do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError
from probcomp.evidence import Matrix
from probcomp.evidence.fisher import Gaussian
from probcomp.recipes.post_temper import LUCKY, Meter, Tempering
from probcomp.recipes.task import Task


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_two_measurements_find_a_power_law(power: float) -> None:
    tempering = Tempering()
    for q in (0.5, 4.0):
        tempering.add(q, 0.3 * q**power)
    expected = 0.3 * 2.0**power
    assert float(tempering(torch.tensor(2.0).double())) == pytest.approx(expected)
    assert tempering.temperature(2.0) == pytest.approx(2.0 / expected)


def test_a_lucky_gain_does_not_make_an_axis_free() -> None:
    tempering = Tempering()
    tempering.add(2.0, -0.1)
    assert float(tempering(torch.tensor(2.0).double())) == pytest.approx(LUCKY * 2.0)


@pytest.mark.parametrize("power", [0.5, 1.7])
def test_outside_of_what_was_tried_no_removal_becomes_cheaper_than_in_proportion(
    power: float,
) -> None:
    tempering = Tempering()
    for q in (1.0, 4.0):
        tempering.add(q, 0.3 * q**power)
    far, small = 40.0, 0.1
    found = tempering(torch.tensor([small, far], dtype=torch.float64))
    assert float(found[0]) == pytest.approx(0.3 * small)
    assert float(found[1]) == pytest.approx(0.3 * 4.0**power * (far / 4.0) ** max(power, 1.0))


def test_the_slope_is_that_of_the_curve() -> None:
    tempering = Tempering()
    for q in (1.0, 4.0):
        tempering.add(q, 0.3 * q**1.5)
    for q in (0.5, 2.0, 9.0):
        step = 1e-5
        pair = tempering(torch.tensor([q - step, q + step], dtype=torch.float64))
        assert tempering.worth(q) == pytest.approx(float(pair.diff()) / (2 * step), rel=1e-5)


def test_a_removal_like_one_that_was_tried_need_not_be() -> None:
    tempering = Tempering()
    assert not tempering.near(1.0)
    tempering.add(1.0, 0.3)
    assert tempering.near(1.2)
    assert not tempering.near(2.0)


@pytest.mark.parametrize("measured", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_no_luck(measured: float) -> None:
    with pytest.raises(DivergenceError):
        Tempering().add(2.0, measured)


class Tied(nn.Module):
    """Two layers with one weight, and one of their own between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(3, 3) for _ in range(3))
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self.first(x))))


def meter(replay: bool) -> Meter:
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    batches = [(x[:5], torch.zeros(5, 3)), (x[5:], torch.zeros(3, 3))]
    likelihood = Gaussian()
    return Meter(Tied(), Task(likelihood=likelihood), likelihood, batches, {}, replay=replay)


def change(name: str, value: Tensor) -> dict[str, Any]:
    return {name: (Matrix(name.rpartition(".")[0], "linear"), value, None)}


@pytest.mark.parametrize("name", ["first.weight", "middle.weight", "last.weight"])
def test_replayed_passes_measure_what_whole_ones_do(name: str) -> None:
    given = change(name, torch.eye(3))
    whole = meter(False).increase(given)
    assert whole > 0
    assert meter(True).increase(given) == pytest.approx(whole)


def test_a_removal_that_breaks_the_model_is_told_and_undone() -> None:
    used = meter(True)
    before = {n: t.clone() for n, t in used.tensors.items()}
    with pytest.raises(DivergenceError, match=r"middle\.weight"):
        used.increase(change("middle.weight", torch.full((3, 3), math.nan)))
    tied = change("first.weight", torch.eye(3)) | change("last.weight", 2 * torch.eye(3))
    used.increase(tied)
    with pytest.raises(RuntimeError):
        used.increase(change("first.weight", torch.eye(3)) | change("middle.weight", torch.eye(2)))
    for name, value in before.items():
        assert torch.equal(used.tensors[name], value)


def test_weights_that_autocast_keeps_are_not_those_of_before() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        used = meter(False)
        given = change("middle.weight", torch.eye(3))
        found = used.increase(given)
        assert found > 0.01
        assert used.increase(given) == found
