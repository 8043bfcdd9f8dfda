from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.errors import BudgetError
from probcomp.inference.training.gates import Gated, Graph, Matrix, start
from probcomp.inference.training.readout import decide, unit_masks
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.steering import steer
from probcomp.inference.training.units import Slice, Slot, Units
from probcomp.priors import Independent


def two_layers(inner: int = 5, hidden: int = 8, outer: int = 4):
    """A hidden layer between two matrices, with a bias for each unit and a constant of 2."""
    made = Matrix(
        Sites((hidden, inner)),
        Independent(0.5),
        (Slot("h", 0, torch.arange(hidden)),),
        torch.ones(hidden, inner),
    )
    read = Matrix(
        Sites((outer, hidden)),
        Independent(0.5),
        (Slot("h", 1, torch.arange(hidden)),),
        torch.ones(outer, hidden),
    )
    bias = Gated((Slot("h", 0, torch.arange(hidden)),), torch.ones(hidden))
    graph = Graph({"a": made, "b": read}, {"bias": bias}, {"h": torch.zeros(hidden)}, 2.0)
    units = Units("h", hidden, (Slice("a", 0, torch.arange(hidden)),))
    return graph, units


@given(st.integers(0, 10_000), st.floats(0.15, 0.95))
def test_units_weights_and_budget_agree(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph, units = two_layers()
    evidence = {
        "a": 3 * torch.randn(8, 5, generator=generator),
        "b": 3 * torch.randn(4, 8, generator=generator),
    }
    target = share * graph.total
    messages = steer(graph, evidence, start(graph), target, trials=20)
    decision = decide(graph, evidence, messages, [units], target)
    a, b, keep = decision.masks["a"], decision.masks["b"], decision.keep["h"]
    assert torch.equal(a.any(1), keep)
    assert torch.equal(b.any(0), keep)
    cost = 2 + int(keep.sum()) + int(a.sum()) + int(b.sum())
    assert decision.cost == cost <= target
    # Unspent only where no further weight of a kept unit fits.
    room = int((~a[keep]).sum()) + int((~b[:, keep]).sum())
    assert target - cost < 1 or room == 0


def test_without_a_target_the_likelier_half_stays() -> None:
    graph, units = two_layers()
    evidence = {"a": torch.full((8, 5), 4.0), "b": torch.full((4, 8), 4.0)}
    evidence["a"][0], evidence["b"][:, 0] = -9.0, -9.0
    messages = steer(graph, evidence, start(graph), None, sweeps=20)
    decision = decide(graph, evidence, messages, [units], None)
    assert decision.keep["h"].tolist() == [False] + [True] * 7
    assert decision.masks["a"][1:].all()


def test_min_keep_is_honoured_and_its_units_stay_connected() -> None:
    graph, units = two_layers()
    evidence = {"a": torch.full((8, 5), -9.0), "b": torch.full((4, 8), -9.0)}
    units = Units("h", 8, units.members, min_keep=3)
    messages = steer(graph, evidence, start(graph), None, sweeps=20)
    decision = decide(graph, evidence, messages, [units], None)
    keep = decision.keep["h"]
    assert int(keep.sum()) == 3
    assert decision.masks["a"][keep].any(1).all()
    assert decision.masks["b"][:, keep].any(0).all()


def test_a_budget_below_the_least_connected_network_is_refused() -> None:
    graph, units = two_layers()
    evidence = {"a": torch.zeros(8, 5), "b": torch.zeros(4, 8)}
    messages = steer(graph, evidence, start(graph), 4.0)
    with pytest.raises(BudgetError, match="least that leaves every layer connected"):
        decide(graph, evidence, messages, [units], 4.0)


def test_units_kept_for_a_loose_budget_must_fit_it_themselves() -> None:
    """All units are as needless, so they stay or go together; together they cost too much."""
    graph, units = two_layers()
    costly = replace(graph.gated["bias"], cost=torch.full((8,), 30.0))
    graph = replace(graph, gated={"bias": costly})
    evidence = {"a": torch.zeros(8, 5), "b": torch.zeros(4, 8)}
    messages = replace(start(graph), units={"h": torch.full((8,), -0.3)})
    decision = decide(graph, evidence, messages, [units], 100.0)
    assert int(decision.keep["h"].sum()) == 1
    assert decision.cost == 2 + 30 + 5 + 4


def test_costlier_weights_need_more_evidence() -> None:
    cost = torch.tensor([[1.0, 10.0]])
    graph = Graph({"a": Matrix(Sites((1, 2)), Independent(0.5), (), cost)}, {}, {})
    evidence = {"a": torch.tensor([[2.0, 3.0]])}
    messages = steer(graph, evidence, start(graph), 5.0, trials=30)
    decision = decide(graph, evidence, messages, [], 5.0)
    assert decision.masks["a"].tolist() == [[True, False]]


def test_unit_masks_cover_every_gated_dimension() -> None:
    keep = {"g": torch.tensor([True, False])}
    gates = {"w": (Slot("g", 0, torch.tensor([0, 1])), Slot("g", 1, torch.tensor([1, 0, -1])))}
    mask = unit_masks(keep, gates, {"w": (2, 3)})["w"]
    assert mask.tolist() == [[False, True, True], [False, False, False]]


def test_a_charge_orders_the_weights_and_the_cost_counts_them() -> None:
    """Charged by its root, the costlier weight with the stronger evidence is the better buy."""
    cost = torch.tensor([[1.0, 9.0, 1.0]])  # the last is likeliest, and keeps the layer connected
    evidence = {"a": torch.tensor([[2.0, 9.0, 20.0]])}
    cases = ((None, [True, False, True], 2.0), (cost.sqrt(), [False, True, True], 10.0))
    for charge, kept, spent in cases:
        matrix = Matrix(Sites((1, 3)), Independent(0.5), (), cost, charge=charge)
        graph = Graph({"a": matrix}, {}, {})
        target = 10.0
        messages = steer(graph, evidence, start(graph), target, trials=30)
        decision = decide(graph, evidence, messages, [], target)
        assert decision.masks["a"].tolist() == [kept]
        assert decision.cost == spent
