"""Tempering against known power laws, and what luck may do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError, InputError
from probcomp.evidence import Matrix
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.recipes.post_temper import LUCKY, Meter, Tempering, units_of
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


def classes(softness: float = 1.0, labels: Tensor | None = None) -> Meter:
    torch.manual_seed(0)
    x, y = 4 * torch.randn(8, 3), torch.zeros(8, dtype=torch.long) if labels is None else labels
    likelihood = Categorical(softness=softness)
    task = Task(likelihood=likelihood)
    return Meter(Tied(), task, likelihood, [(x[:5], y[:5]), (x[5:], y[5:])], {})


def test_a_plan_is_in_nats_of_the_loss_itself_and_changes_no_later_measurement() -> None:
    given = change("middle.weight", torch.eye(3))
    soft, plain = classes(4.0), classes()
    before = soft.increase(given)
    real, exchange = soft.plan(given)
    assert real == pytest.approx(plain.increase(given))
    assert real > 2 * before > 0
    assert exchange * before == pytest.approx(real)
    assert soft.increase(given) == before
    assert plain.plan(given) == (plain.increase(given), 1.0)


def test_batches_without_a_label_that_counts_have_no_say() -> None:
    given = change("middle.weight", torch.eye(3))
    labels = torch.tensor([0, 1, 0, 1, 0, IGNORED, IGNORED, IGNORED])
    found = classes(labels=labels)
    assert found.weights == [5]
    labels[0] = IGNORED
    assert classes(labels=labels).weights == [4]
    assert found.increase(given) > 0
    with pytest.raises(InputError, match="has a label that counts"):
        classes(labels=torch.full((8,), IGNORED))


@pytest.mark.parametrize(
    ("likelihood", "units"),
    [
        (None, 2),
        (Categorical(unit="token"), 3),
        (Categorical(shift=True, unit="token"), 2),
        (Gaussian(), 2),
    ],
)
def test_units_are_those_of_the_loss(likelihood: Any, units: int) -> None:
    labels = torch.tensor([[0, 1, IGNORED], [IGNORED, 2, IGNORED]])
    given = labels.float() if isinstance(likelihood, Gaussian) else labels
    assert units_of(Task(likelihood=likelihood), (torch.zeros(2, 3), given)) == units
    if not isinstance(likelihood, Gaussian):
        nothing = torch.full((2, 3), IGNORED)
        assert units_of(Task(likelihood=likelihood), (torch.zeros(2, 3), nothing)) == 0
