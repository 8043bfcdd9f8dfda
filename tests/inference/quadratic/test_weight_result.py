"""Starts, scales and options of inference over single weights."""

from typing import Any

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import Quadratic, WeightState
from probcomp.inference.quadratic.weight_result import (
    SPIKE,
    check_options,
    learn_slab,
    row_scale,
    start_state,
    weight_field,
)


def quadratic() -> Quadratic:
    weight = torch.arange(6, dtype=torch.float64).view(2, 3) + 1
    return Quadratic(weight, torch.eye(3, dtype=torch.float64))


def state(slab: float = 1.0, spike: float = 50.0) -> WeightState:
    zero = torch.zeros(2, 3, dtype=torch.float64)
    return WeightState(torch.ones(3, dtype=torch.float64), zero, zero, slab, spike)


def test_a_cold_start_lies_between_slab_and_spike_at_the_dense_weights() -> None:
    q = quadratic()
    scale = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    found = start_state(None, q, scale, None, None)
    assert found.slab == pytest.approx(1 / float(q.weight.square().mean()))
    assert found.spike == pytest.approx(SPIKE * found.slab)
    assert torch.all((found.site > found.slab) & (found.site < found.spike))
    assert torch.equal(found.mean, q.weight * scale)
    dead = Quadratic(torch.zeros(2, 3), torch.eye(3))
    assert start_state(None, dead, torch.ones(1, 1), None, None).slab == 1.0


def test_a_warm_start_goes_on_with_what_is_named_in_place_of_its_own() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    same = start_state(state(), quadratic(), one, None, None)
    assert (same.slab, same.spike) == (1.0, 50.0)
    assert torch.equal(same.site, state().site)
    found = start_state(state(), quadratic(), one, 2.0, None)
    assert (found.slab, found.spike) == (2.0, 50.0)
    with pytest.raises(InputError, match="must be below the spike's"):
        start_state(state(), quadratic(), one, 60.0, None)
    small = Quadratic(torch.ones(2, 2), torch.eye(2))
    with pytest.raises(InputError, match="the warm start is for weights"):
        start_state(state(), small, torch.ones(1, 1), None, None)


def test_the_slab_is_the_mean_square_of_what_is_kept() -> None:
    square = torch.tensor([[4.0, 9.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    kept = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = learn_slab(state(), kept, square, with_spike=True)
    assert found.slab == pytest.approx(2 / 13)
    assert found.spike == pytest.approx(50 * 2 / 13)
    alone = learn_slab(state(slab=1.0, spike=0.2), kept, square, with_spike=False)
    assert alone.slab == pytest.approx(0.1)  # stays below the spike
    few = state()
    assert learn_slab(few, 0.1 * kept, square, with_spike=True) is few


def test_fields_broadcast_or_are_refused() -> None:
    q = quadratic()
    assert torch.equal(weight_field(1.5, q), torch.full((2, 3), 1.5, dtype=torch.float64))
    columns = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(weight_field(columns, q)[1], columns.double())
    with pytest.raises(InputError, match="broadcast"):
        weight_field(torch.zeros(4), q)
    with pytest.raises(InputError, match="NaN"):
        weight_field(float("nan"), q)


def test_row_weights_enter_by_their_roots_or_are_refused() -> None:
    q = quadratic()
    assert torch.equal(row_scale(q, None), torch.ones(1, 1, dtype=torch.float64))
    assert row_scale(q, torch.tensor([4.0, 9.0])).flatten().tolist() == [2.0, 3.0]
    with pytest.raises(InputError, match="shape"):
        row_scale(q, torch.ones(3))
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(InputError, match="positive and finite"):
            row_scale(q, torch.tensor([1.0, wrong]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slab": -1.0}, "slab"),
        ({"slab": 2.0, "spike": 1.0}, "spike"),
        ({"iterations": 0}, "iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"damping": 1.0}, "damping"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    good = {"slab": 1.0, "spike": 2.0, "iterations": 1, "tolerance": 1e-3, "damping": 0.0}
    check_options(**good)
    with pytest.raises(InputError, match=words):
        check_options(**(good | changes))
