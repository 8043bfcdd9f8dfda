import pytest
import torch

from probcomp.inference.training.gates import Graph, Matrix, expected_cost, start
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.steering import LOWEST, TOLERANCE, settle, steer
from probcomp.inference.training.units import Slot
from probcomp.priors import Independent, Lattice


@pytest.mark.parametrize("prior", [Independent(0.4), Lattice(-0.4, 1.0)], ids=["alone", "lattice"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_expected_cost_reaches_the_target(prior, share) -> None:
    generator = torch.Generator().manual_seed(0)
    l = 3 * torch.randn(30, 40, generator=generator) - 1
    cost = torch.rand(30, 40, generator=generator) + 0.5
    slot = Slot("row", 0, torch.arange(30))
    graph = Graph(
        {"w": Matrix(Sites((30, 40)), prior, (slot,), cost)}, {}, {"row": torch.zeros(30)}
    )
    target = share * graph.total
    messages = steer(graph, {"w": l}, start(graph), target, trials=25)
    got = expected_cost(graph, {"w": l}, messages)
    assert abs(got - target) <= TOLERANCE * target
    free = steer(graph, {"w": l}, start(graph), None)
    assert free.price == 0.0
    wanted = expected_cost(graph, {"w": l}, free)
    assert (messages.price > 0) == (wanted > target)


def test_a_target_beyond_what_live_units_hold_stops_at_the_lowest_price() -> None:
    l = torch.full((4, 20), 5.0)
    l[2:] = -6.0
    slot = Slot("row", 0, torch.arange(4))
    matrix = Matrix(Sites((4, 20)), Independent(0.5), (slot,), torch.ones(4, 20))
    graph = Graph({"w": matrix}, {}, {"row": torch.zeros(4)})
    messages = steer(graph, {"w": l}, start(graph), 70.0, trials=20)
    assert messages.price == LOWEST
    assert expected_cost(graph, {"w": l}, messages) == pytest.approx(40, abs=0.5)


def rows_graph() -> tuple[Graph, torch.Tensor]:
    """Four rows that are needed, and four whose weights say a little against themselves."""
    l = torch.full((8, 20), 4.0)
    l[4:] = -1.0
    slot = Slot("row", 0, torch.arange(8))
    matrix = Matrix(Sites((8, 20)), Independent(0.5), (slot,), torch.ones(8, 20))
    return Graph({"w": matrix}, {}, {"row": torch.zeros(8)}), l


def test_a_subsidy_that_gates_feel_keeps_units_while_the_target_is_high() -> None:
    graph, l = rows_graph()
    target = 0.9 * graph.total
    felt = steer(graph, {"w": l}, start(graph), target, trials=25, subsidise=True)
    assert felt.price < 0
    assert bool((felt.units["row"] > 0).all())
    assert expected_cost(graph, {"w": l}, felt) == pytest.approx(target, rel=TOLERANCE)
    unfelt = steer(graph, {"w": l}, start(graph), target, trials=25)
    assert int((unfelt.units["row"] > 0).sum()) == 4


def test_the_price_stops_at_the_ceiling() -> None:
    graph, l = rows_graph()
    messages = steer(graph, {"w": l}, start(graph), 1.0, trials=25, ceiling=0.0)
    assert messages.price == 0
    free = steer(graph, {"w": l}, start(graph), None)
    assert torch.equal(messages.units["row"] > 0, free.units["row"] > 0)


def mixed_rows() -> tuple[Graph, torch.Tensor]:
    """Needed rows most of whose weights say they are zero: filled, they would close their gates."""
    l = torch.full((8, 60), -3.0)
    l[:, :12] = 5.0
    slot = Slot("row", 0, torch.arange(8))
    matrix = Matrix(Sites((8, 60)), Lattice(-0.5, 1.0), (slot,), torch.ones(8, 60))
    return Graph({"w": matrix}, {}, {"row": torch.zeros(8)}), l


def test_a_subsidy_that_fills_units_does_not_close_their_gates() -> None:
    graph, l = mixed_rows()
    messages = start(graph)
    for _ in range(3):  # rounds: a second one starts where the first one ended
        messages = steer(graph, {"w": l}, messages, 0.999 * graph.total, trials=6)
        assert messages.price < -2
        assert bool((messages.units["row"] > 5).all())
    assert expected_cost(graph, {"w": l}, messages) > 0.98 * graph.total
    _, converged = settle(graph, {"w": l}, messages)
    assert converged


def test_settling_reaches_a_fixed_point_or_says_that_it_did_not() -> None:
    graph, l = rows_graph()
    messages, converged = settle(graph, {"w": l}, start(graph))
    assert converged
    again, _ = settle(graph, {"w": l}, messages)
    before, after = (torch.sigmoid(m.units["row"]) for m in (messages, again))
    assert torch.allclose(before, after, atol=2e-3)
    _, converged = settle(graph, {"w": l}, start(graph), sweeps=1)
    assert not converged
