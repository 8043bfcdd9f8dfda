"""Parts of a row of logits: what they cover, and that their merge is the whole."""

import pytest
import torch

from probcomp.kernels.gpu import decode_statistics
from probcomp.kernels.gpu.decode_statistics import merge
from tests.kernels.gpu.recorder import record
from tests.kernels.supports import generator


def sums(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """m1, m2, argmax, Z and U of the last axis, as the kernel defines them."""
    top = x.topk(2, -1)
    best = top.values[..., :1]
    weight = (x - best).exp()
    shift = torch.where(weight > 0, x - best, 0.0)
    moment = (shift * weight).sum(-1)
    return best[..., 0], top.values[..., 1], top.indices[..., 0], weight.sum(-1), moment


def test_merged_parts_are_the_whole() -> None:
    x = 5 * torch.randn(6, 4, 50, generator=generator(0), dtype=torch.float64)
    m1, m2, arg, z, u = sums(x)
    arg = arg + 50 * torch.arange(4)
    for got, want in zip(merge(m1, m2, arg, z, u), sums(x.flatten(1))):
        assert torch.allclose(got.double(), want.double(), atol=1e-10)


def test_equal_maxima_keep_the_first_and_empty_parts_count_nothing() -> None:
    low = float("-inf")
    m1, m2 = torch.tensor([[2.0, low, 2.0]]), torch.tensor([[1.0, low, 0.0]])
    arg, z = torch.tensor([[3, 0, 90]]), torch.tensor([[1.5, 0.0, 1.25]])
    u = torch.tensor([[-0.5, 0.0, -0.25]])
    best, second, index, total, moment = merge(m1, m2, arg, z, u)
    assert (best, second, index) == (2.0, 2.0, 3)
    assert total == 2.75
    assert moment == -0.75


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 50_000), (3, 1000), (300, 50_000)])
def test_parts_cover_the_vocabulary(rows: int, vocabulary: int, monkeypatch) -> None:
    seen = record(monkeypatch, decode_statistics, "decode_parts")
    decode_statistics.launch(torch.zeros(rows, vocabulary), 2.0)
    assert seen.grid[0] == rows
    split, span = seen.grid[1], seen.sent["SPAN"]
    assert split == seen.sent["SPLIT"]
    assert span % seen.sent["BV"] == 0
    assert split * span >= vocabulary
    assert seen.sent["inverse_t"] == 0.5
    assert (split > 1) == (rows < 264 and vocabulary > 4096)
