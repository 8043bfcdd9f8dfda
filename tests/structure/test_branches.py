"""Removable layers: which residual branches are found, and that removal drops the branch."""

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import SurgeryError
from probcomp.structure import cut_graph, trace

from .cutting import EXACT, distance, run


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 9),
            nn.Linear(9, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(self.norm(x))))


class Stack(nn.Module):
    """Two residual blocks between two maps; ``mode`` changes how they meet the stream."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.mode = mode
        self.enter, self.out = nn.Linear(5, 6), nn.Linear(6, 3)
        self.one = Block()
        self.two = self.one if mode == "shared" else Block()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.mode == "parallel":
            return self.out(self.one(x) + self.two(x) + x)
        if self.mode == "leaky":
            y = self.one(x)
            return self.out(x + y + y.mean())
        if self.mode == "in_place":
            y = self.one(x)
            y += x
            return self.out(torch.relu_(y) + self.two(y))
        if self.mode == "sigmoid":
            return self.out(x + torch.sigmoid(self.one(x)))
        if self.mode == "cast":
            x = x + self.one(x.clone())
            return self.out(x.detach() + self.two(x))
        if self.mode == "projected":
            return self.out(self.two(x) + self.one(self.enter.weight.sum() * x.flip(-1)))
        x = x + self.one(x)
        return self.out(x + self.two(x))


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
GONE = torch.tensor([False])


def layers(structure) -> dict[str, str | None]:
    return {a.name: a.blocked for a in structure.axes if a.kind == "layer"}


@pytest.mark.parametrize("mode", ["plain", "parallel", "cast", "in_place"])
def test_both_blocks_are_units_alone_and_together(mode: str) -> None:
    model = Stack(mode)
    structure = trace(model, (X,))
    assert layers(structure) == {"one.layer": None, "two.layer": None}
    for names in (["one.layer"], ["two.layer"], ["one.layer", "two.layer"]):
        keep = dict.fromkeys(names, GONE)
        cut = cut_graph(structure, model, keep)
        assert distance(run(cut, (X,)), run(structure.silence(model, keep), (X,))) < EXACT
        left = {n for n, _ in cut.named_parameters()}
        assert not any(n.startswith(name.split(".")[0]) for name in names for n in left)
        assert structure.cost(keep).params == sum(p.numel() for p in cut.parameters())


def test_removal_is_the_stream_alone() -> None:
    model = Stack("plain")
    keep = {"one.layer": GONE, "two.layer": GONE}
    cut = cut_graph(trace(model, (X,)), model, keep)
    assert distance(run(cut, (X,)), [model.out(model.enter(X)).detach()]) < EXACT


def test_shared_weights_make_one_unit() -> None:
    model = Stack("shared")
    structure = trace(model, (X,))
    assert layers(structure) == {"one.layer": None}
    cut = cut_graph(structure, model, {"one.layer": GONE})
    assert distance(run(cut, (X,)), [model.out(model.enter(X)).detach()]) < EXACT


def test_a_leak_blocks_and_says_who_reads() -> None:
    (reason,) = [r for r in layers(trace(Stack("leaky"), (X,))).values() if r]
    assert "mean" in reason
    assert "reads it too" in reason


def test_what_does_not_vanish_is_inexact_but_can_be_cut() -> None:
    model = Stack("sigmoid")
    structure = trace(model, (X,))
    axis = structure.axis("one.layer")
    assert axis.blocked is None
    assert not axis.exact
    assert "does not vanish" in axis.inexact_because
    cut = cut_graph(structure, model, {axis.name: GONE})
    assert distance(run(cut, (X,)), [model.out(model.enter(X)).detach()]) < EXACT
    with pytest.raises(SurgeryError, match="cannot be silenced"):
        structure.silence(model, {axis.name: GONE})


def test_no_stream_no_layer() -> None:
    assert layers(trace(Stack("projected"), (X,))) == {}


def test_layer_and_width_together() -> None:
    model = Stack("plain")
    structure = trace(model, (X,))
    keep = {"one.layer": GONE, "two.up.neuron": torch.arange(9) % 2 == 0}
    cut, silent = cut_graph(structure, model, keep), structure.silence(model, keep)
    assert distance(run(cut, (X,)), run(silent, (X,))) < EXACT


def test_layer_cost_is_what_its_removal_saves() -> None:
    structure = trace(Stack("plain"), (X,))
    axis = structure.axis("one.layer")
    assert axis.cost.params == 2 * 6 + 6 * 9 + 9 + 9 * 6 + 6
    assert axis.cost.macs == 4 * 2 * 6 * 9
    assert axis.cost == structure.cost() - structure.cost({"one.layer": GONE})
