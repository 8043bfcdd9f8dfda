"""One small program for an operator, and the axes that its cut must keep whole."""

import torch

from ..cutting import check_axes, free
from ..test_rules import Case


def held(case: Case) -> None:
    """The axes are those expected, all operators are known, and every cut equals a silencing."""
    model, structure, x = case.build()
    assert sorted((a.kind, a.size) for a in free(structure)) == sorted(case.expect)
    assert not structure.typing.unknown
    check_axes(structure, model, (x,))


def neuron(name, forward, expect, *, width=9, out=None, input=(2, 7)) -> Case:
    """A linear layer of some width, an operator, and a read-out of its result."""
    shapes = {"w": (7, width), "o": (width if out is None else out, 4)}
    return Case(name, shapes, lambda m, x: forward(torch.tanh(x @ m.w)) @ m.o, expect, input)
