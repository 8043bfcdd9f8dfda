"""Images: channels are units, the places of an image are not."""

import pytest
import torch
from torch.nn import functional as F

from ..test_rules import Case
from .cases import held


def image(name, forward, expect, *, width=9, out=9) -> Case:
    shapes = {"w": (width, 3, 1, 1), "o": (4, out, 1, 1)}
    return Case(
        name,
        shapes,
        lambda m, x: F.conv2d(forward(torch.tanh(F.conv2d(x, m.w))), m.o),
        expect,
        (2, 3, 4, 6),
    )


CASES = [
    image("average_pool", lambda z: F.avg_pool2d(z, 2), [("channel", 9)]),
    image("reflect", lambda z: F.pad(z, (1, 1, 1, 1), mode="reflect"), [("channel", 9)]),
    image("replicate", lambda z: F.pad(z, (1, 1, 1, 1), mode="replicate"), [("channel", 9)]),
    image("pixel_unshuffle", lambda z: F.pixel_unshuffle(z, 2), [("channel", 9)], out=36),
    image("upsample_bilinear", lambda z: F.interpolate(z, scale_factor=2, mode="bilinear"),
          [("channel", 9)]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_images(case) -> None:
    held(case)
