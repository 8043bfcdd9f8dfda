"""Products: the summed dimensions of both sides are one axis."""

import pytest
import torch

from ..test_rules import Case
from .cases import held, neuron

CASES = [
    Case(
        "baddbmm",
        {"w": (3, 7, 9), "b": (3, 1, 9), "o": (3, 9, 4)},
        lambda m, x: torch.bmm(torch.tanh(torch.baddbmm(m.b, x.expand(3, 2, 7), m.w)), m.o).sum(0),
        [("neuron", 3), ("neuron", 9)],
    ),
    Case(
        "matmul_of_a_vector",
        {"w": (7, 9), "o": (9,)},
        lambda m, x: torch.tanh(x @ m.w) @ m.o,
        [("neuron", 9)],
    ),
    neuron("scores", lambda z: torch.einsum("bi,ci->bc", z, z) @ z, [("neuron", 9)]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_products(case) -> None:
    held(case)
