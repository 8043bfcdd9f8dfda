"""Parts of a tensor: each part keeps its own units."""

import pytest
from torch.nn import functional as F

from .cases import held, neuron

CASES = [
    neuron("select", lambda z: z.view(2, 3, 3)[:, 1], [("neuron", 3)], out=3),
    neuron("narrow", lambda z: z.narrow(0, 0, 1), [("neuron", 9)]),
    neuron("unbind", lambda z: sum(z.view(2, 3, 3).unbind(1)), [("neuron", 3)], out=3),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_segments(case) -> None:
    held(case)


def test_a_cropped_axis_stays_whole_and_says_why() -> None:
    cropped = neuron("negative_pad", lambda z: F.pad(z, (-2, 0)), [], out=7)
    held(cropped)
    _, structure, _ = cropped.build()
    assert any("padded" in (axis.blocked or "") for axis in structure.axes)
