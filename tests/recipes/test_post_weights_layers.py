"""Which layers may be masked, and orders of units."""

import copy
from dataclasses import replace

import torch
from torch import nn

from probcomp.allocation.counts import weight_macs
from probcomp.recipes.job import Job
from probcomp.recipes.post_weights_layers import layers_of, ordered
from tests.allocation.test_counts import Encoder
from tests.recipes.jobs import job
from tests.recipes.mixtures import Mixture


def own() -> Job:
    """A job on a copy of the network, to be changed."""
    given = job("params=0.5")
    return replace(given, model=copy.deepcopy(given.model))


def test_linear_layers_and_what_a_weight_costs() -> None:
    by_count, by_macs = layers_of(job("params=0.5")), layers_of(job("macs=0.5"))
    assert set(by_count.matrices) == {"one.weight", "two.weight", "three.weight"}
    assert set(by_count.costs.values()) == {1.0}
    given = job("macs=0.5")
    assert by_macs.costs == {n: float(given.uses[n]) for n in by_macs.matrices}
    assert by_count.notes == ()


def test_weights_that_another_module_has_too_stay_and_it_is_said() -> None:
    given = own()

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

    given.model.tied = Tied()
    found = layers_of(given)
    assert not any("tied" in name for name in found.matrices)
    assert any("tied.first" in note and "another module" in note for note in found.notes)


def test_layers_that_are_not_run_as_modules_are_left_out() -> None:
    given = own()
    given.model.idle = nn.Linear(3, 3)
    found = layers_of(given)
    assert "idle.weight" not in found.matrices
    assert any("idle all stay: nothing ran it" in note for note in found.notes)


def test_matrices_that_no_layer_multiplies_by_stay_and_it_is_said() -> None:
    """Attention of torch's own has its projections in a tensor, and in a module it never runs."""
    model, x = Encoder().eval(), torch.randn(8, 5, 16)
    found = layers_of(
        replace(
            job("params=0.5"),
            model=model,
            train=(x, torch.zeros(8, dtype=torch.long)),
            uses=weight_macs(model, lambda m: m(x[:2]), 2),
        )
    )
    assert len(found.matrices) == 5
    assert all("linear" in name or "head" in name for name in found.matrices)
    whole = [f"layers.layers.{i}.self_attn.{p}" for i in range(2) for p in ("in_proj", "out_proj")]
    assert len(found.notes) == 4
    for name in whole:
        assert any(name in note for note in found.notes), name


def test_fused_experts_stay_and_it_is_said() -> None:
    model, x = Mixture().eval(), torch.randn(8, 6)
    found = layers_of(
        replace(
            job("params=0.5"),
            model=model,
            train=(x, torch.zeros(8, dtype=torch.long)),
            uses=weight_macs(model, lambda m: m(x[:2]), 2),
        )
    )
    assert set(found.matrices) == {"router.weight", "read.weight", "head.weight"}
    assert [note.split()[3] for note in found.notes] == ["up", "down"]


def test_similar_units_come_side_by_side_and_outputs_stay() -> None:
    given = own()
    first = given.model.get_parameter("one.weight")
    with torch.no_grad():  # units alternate between two kinds
        first[::2] = first[0] * torch.linspace(1.0, 1.1, len(first[::2]))[:, None]
        first[1::2] = -first[1] * torch.linspace(1.0, 1.1, len(first[1::2]))[:, None]
    batch = (given.train[0][:20], given.train[1][:20])
    dense = given.model(batch[0])
    model, orders = ordered(given, layers_of(given), batch, lambda m: m(batch[0]))
    torch.testing.assert_close(model(batch[0]), dense, rtol=1e-4, atol=1e-4)
    assert torch.equal(given.model.get_parameter("one.weight"), first)  # a copy was ordered
    assert orders
    for name, order in orders.items():
        assert sorted(order.tolist()) == list(range(len(order))), name
    moved = model.get_parameter("one.weight")

    def jumps(weight: torch.Tensor) -> float:
        return float((weight[1:].abs() - weight[:-1].abs()).norm())

    assert jumps(moved) < jumps(first)
