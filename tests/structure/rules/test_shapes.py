"""Reorderings: units stay together through them."""

import pytest
import torch

from .cases import held, neuron

CASES = [
    neuron("expand", lambda z: z[:, None].expand(2, 3, 9).mean(1), [("neuron", 9)]),
    neuron(
        "repeat_interleave",
        lambda z: z.repeat_interleave(2, 1),
        [("neuron", 2), ("neuron", 9)],  # the copies are an axis of their own
        out=18,
    ),
    neuron("transpose", lambda z: z.t().contiguous().t(), [("neuron", 9)]),
    neuron("stack_of_rows", lambda z: torch.stack([z, z], 0).flatten(0, 1), [("neuron", 9)]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shapes(case) -> None:
    held(case)
