"""Watched calls matched with the program: one equation for each integer that was seen."""

import copy

import torch
from torch import nn

from probcomp.structure import trace
from probcomp.structure.pairing import WATCHED, equations, pair
from probcomp.structure.provenance import Op, Slot, Watch, instrument

X = torch.randn(2, 5, 12)


class Heads(nn.Module):
    """Three heads of width four, reshaped by an attribute and by a quotient of two."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 12, 3
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        b, t, _ = x.shape
        size = self.width // self.heads
        q, k, v = (
            p(x).view(b, t, self.heads, size).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        y = torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, self.width))


def watched(model: nn.Module):
    twin = copy.deepcopy(model)
    instrument(twin)
    watch = Watch(WATCHED)
    handles = watch.follow(twin)
    with watch:
        twin(X)
    for handle in handles:
        handle.remove()
    return watch.calls


def test_every_watched_call_finds_its_instruction() -> None:
    model = Heads()
    structure = trace(model, (X,))
    pairs = pair(structure, watched(model))
    assert [sized.op for sized, _ in pairs].count("view") == 3
    for sized, instr in pairs:
        assert instr.op in (sized.op, "reshape", "view", "_unsafe_view")


def test_equations_say_what_each_integer_must_become() -> None:
    model = Heads()
    structure = trace(model, (X,))
    axis = next(a for a in structure.axes if a.kind == "head")
    found = equations(structure, watched(model), {axis.var: 2})
    by_expression = {e.expression: (e.old, e.required) for e in found}
    heads, width = Slot("", ("heads",)), Slot("", ("width",))
    assert by_expression[heads] == (3, 2)
    assert by_expression[Op("//", width, heads)] == (4, 4)
    assert by_expression[width] == (12, 8)
    same = equations(structure, watched(model), {})
    assert all(e.old == e.required for e in same)
