import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.inference.training.gates import (
    Gated,
    Graph,
    Matrix,
    beliefs,
    connections,
    expected_cost,
    remove,
    start,
    sweep,
)
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.units import Slot
from probcomp.priors import Independent, Lattice

TREE = 2e-5  # float32 messages on a tree
LOOPY = 0.05  # two gates for each weight, evidence of standard deviation 1.5: worst 0.02 of 20


def graph_of(rows: int, columns: int, *, both: bool, prior, fields=0.0) -> Graph:
    slots = [Slot("row", 0, torch.arange(rows))]
    if both:
        slots.append(Slot("column", 1, torch.arange(columns)))
    cost = torch.ones(rows, columns)
    matrix = Matrix(Sites((rows, columns)), prior, tuple(slots), cost)
    sizes = {"row": rows, "column": columns} if both else {"row": rows}
    return Graph({"w": matrix}, {}, {n: torch.full((k,), fields) for n, k in sizes.items()})


def converge(graph: Graph, evidence, price: float = 0.0, sweeps: int = 60):
    messages = start(graph)
    for _ in range(sweeps):
        messages = sweep(graph, evidence, messages, price)
    return messages


def enumerate_gates(l, log_r, field: float, *, both: bool):
    """Posterior of supports and gates by summing over gates; weights are independent given them."""
    rows, columns = l.shape
    total, s, t_row, t_column = 0.0, torch.zeros_like(l), torch.zeros(rows), torch.zeros(columns)
    pr = torch.sigmoid(log_r).double()
    for ts in itertools.product([0, 1], repeat=rows + (columns if both else 0)):
        t = torch.tensor(ts[:rows], dtype=torch.double)
        u = torch.tensor(ts[rows:], dtype=torch.double) if both else torch.ones(columns).double()
        on = torch.outer(t, u)
        term = (1 - pr) + pr * torch.exp(l.double() * on)
        weight = math.exp(field * sum(ts)) * float(term.prod())
        total += weight
        s += weight * on * pr * l.double().exp() / term
        t_row += weight * t
        t_column += weight * u
    return s / total, t_row / total, t_column / total


@given(st.integers(0, 10_000))
def test_one_gate_for_each_row_is_exact(seed: int) -> None:
    """Independent supports under one gate a row: a tree, so beliefs are the marginals."""
    generator = torch.Generator().manual_seed(seed)
    l = 2 * torch.randn(4, 5, generator=generator)
    graph = graph_of(4, 5, both=False, prior=Independent(0.3), fields=-0.4)
    messages = converge(graph, {"w": l}, sweeps=40)
    s, t, _ = enumerate_gates(l, torch.tensor(0.3).logit(), -0.4, both=False)
    belief = torch.sigmoid(beliefs(graph, {"w": l}, messages)["w"])
    assert torch.allclose(belief.double(), s.double(), atol=TREE)
    assert torch.allclose(torch.sigmoid(messages.units["row"]).double(), t.double(), atol=TREE)


def test_gates_on_both_sides_are_close_to_enumeration() -> None:
    worst = 0.0
    for seed in range(20):
        l = 1.5 * torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        graph = graph_of(4, 4, both=True, prior=Independent(0.4))
        messages = converge(graph, {"w": l})
        s, t, u = enumerate_gates(l, torch.tensor(0.4).logit(), 0.0, both=True)
        belief = torch.sigmoid(beliefs(graph, {"w": l}, messages)["w"])
        worst = max(worst, float((belief - s).abs().max()))
        for name, expected in (("row", t), ("column", u)):
            got = torch.sigmoid(messages.units[name])
            worst = max(worst, float((got - expected).abs().max()))
    assert worst < LOOPY


def test_without_gates_the_lattice_is_alone() -> None:
    from probcomp.inference import marginals

    l = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    prior = Lattice(0.2, 0.8)
    matrix = Matrix(Sites((6, 7)), prior, (), torch.ones(6, 7))
    graph = Graph({"w": matrix}, {}, {})
    belief = beliefs(graph, {"w": l}, converge(graph, {"w": l}, sweeps=5))["w"]
    expected = marginals(prior, l, method="loopy").log_odds
    assert torch.allclose(belief, expected, atol=5e-3)  # inner sweeps stop at 1e-3 in the odds


def test_a_unit_whose_weights_are_all_at_the_floor_goes() -> None:
    l = torch.full((3, 60), 5.0)
    l[1] = -3.45
    graph = graph_of(3, 60, both=False, prior=Lattice(-0.5, 1.0))
    units = converge(graph, {"w": l}, sweeps=15).units["row"]
    assert units[1] < -5
    assert units[0] > 5
    assert units[2] > 5


def test_psi_stays_when_evidence_stays() -> None:
    """No double counting: at a fixed point another pass with the same evidence moves nothing."""
    l = 0.5 * torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    graph = graph_of(6, 8, both=True, prior=Lattice(0.0, 0.865))
    messages = converge(graph, {"w": l}, sweeps=80)
    again = sweep(graph, {"w": l}, messages, 0.0)
    assert torch.allclose(again.matrices["w"].psi, messages.matrices["w"].psi, atol=2e-3)
    belief = torch.sigmoid(beliefs(graph, {"w": l}, again)["w"])
    assert belief.max() < 0.97


def test_feeding_beliefs_back_instead_of_the_extrinsic_part_saturates() -> None:
    """The mutation that must fail: what each side already knew is counted in every round.

    Correct beliefs on this grid lie within [0.2, 0.8]; double counting drives most of them to
    0 or 1 within eight rounds.
    """
    from probcomp.inference import marginals

    l = 0.5 * torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    prior = Lattice(0.0, 0.865)
    correct = marginals(prior, l)
    psi = correct.extrinsic
    for _ in range(8):  # the right way: the same evidence, only psi comes back
        psi = marginals(prior, l).extrinsic
    right = torch.sigmoid(psi + l)
    assert right.min() > 0.2
    assert right.max() < 0.8
    # The wrong way: the marginal as the prior (psi = belief), and the product of posterior and
    # prior as the message (psi + l, plus psi again).
    wrong = correct.log_odds
    for _ in range(8):
        wrong = marginals(prior, l + 2 * wrong).log_odds
    saturated = (torch.sigmoid(wrong) - 0.5).abs() > 0.49
    assert saturated.float().mean() > 0.9


def test_price_acts_on_supports_and_negative_price_leaves_gates_alone() -> None:
    l = torch.full((3, 4), -1.0)
    graph = graph_of(3, 4, both=False, prior=Independent(0.5))
    settled = converge(graph, {"w": l})
    costs, units = [], []
    for price in (-3.0, -1.0, 0.0, 1.0, 3.0):
        messages = settled
        for _ in range(60):
            messages = sweep(graph, {"w": l}, messages, price)
        costs.append(expected_cost(graph, {"w": l}, messages))
        units.append(float(messages.units["row"][0]))
    assert costs == sorted(costs, reverse=True)
    assert units[0] == units[1] == pytest.approx(units[2], abs=1e-4)
    assert units[4] < units[3] < units[2]


def test_cost_of_what_only_gates_remove() -> None:
    graph = Graph(
        {},
        {"b": Gated((Slot("row", 0, torch.arange(3)),), torch.tensor([1.0, 2.0, 4.0]))},
        {"row": torch.zeros(3)},
        constant=5.0,
    )
    messages = sweep(graph, {}, start(graph), 0.5)
    assert torch.allclose(messages.units["row"], torch.tensor([-0.5, -1.0, -2.0]))
    expected = 5 + float((torch.sigmoid(messages.units["row"]) * torch.tensor([1, 2, 4])).sum())
    assert expected_cost(graph, {}, messages) == pytest.approx(expected)
    assert graph.total == 12


def test_removed_units_stay_removed() -> None:
    l = torch.full((3, 4), 20.0)
    graph = graph_of(3, 4, both=False, prior=Independent(0.5))
    graph = remove(graph, {"row": torch.tensor([False, True, False])})
    messages = converge(graph, {"w": l}, sweeps=10)
    belief = torch.sigmoid(beliefs(graph, {"w": l}, messages)["w"])
    assert belief[1].max() < 1e-6
    assert belief[0].min() > 0.99


def test_connections_count_the_poorer_side() -> None:
    first = Matrix(
        Sites((2, 3)), Independent(0.5), (Slot("h", 0, torch.arange(2)),), torch.ones(2, 3)
    )
    second = Matrix(
        Sites((4, 2)), Independent(0.5), (Slot("h", 1, torch.arange(2)),), torch.ones(4, 2)
    )
    graph = Graph({"a": first, "b": second}, {}, {"h": torch.zeros(2)})
    kept = {"a": torch.tensor([[1.0, 1, 1], [0, 0, 0]]), "b": torch.ones(4, 2)}
    assert connections(graph, kept)["h"].tolist() == [3.0, 0.0]
    embedding = Gated((Slot("h", 1, torch.arange(2)),), torch.ones(9, 2))
    graph = Graph({"a": first, "b": second}, {"e": embedding}, {"h": torch.zeros(2)})
    assert connections(graph, kept)["h"].tolist() == [math.inf, math.inf]
