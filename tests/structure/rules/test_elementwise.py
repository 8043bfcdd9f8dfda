"""Operators on each element: they join the axes of what they combine."""

import pytest
import torch

from .cases import held, neuron

CASES = [
    neuron("where", lambda z: torch.where(z > 0, z, 0.5 * z), [("neuron", 9)]),
    neuron("clamp", lambda z: z.clamp(-0.5, 0.5), [("neuron", 9)]),
    neuron("copy", lambda z: z.clone().mul_(2.0), [("neuron", 9)]),
    neuron("maximum", lambda z: torch.maximum(z, -z), [("neuron", 9)]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_elementwise(case) -> None:
    held(case)
