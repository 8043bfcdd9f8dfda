"""What a launch of the attention kernel passes."""

import pytest
import torch

from probcomp.kernels.gpu import attention
from tests.kernels.gpu.recorder import record


@pytest.mark.parametrize(("width", "padded"), [(4, 16), (16, 16), (40, 64), (64, 64)])
def test_heads_are_padded_to_a_power_of_two(width: int, padded: int, monkeypatch) -> None:
    seen = record(monkeypatch, attention, "attention")
    q, k, v = (
        torch.randn(2, 3, 70, width),
        torch.randn(2, 2, 90, width),
        torch.randn(2, 2, 90, width),
    )
    heads = torch.tensor([0, 1, 1])
    out = attention.launch(q, k, v, heads, None, None, (64, 32), True, 0.5)
    assert out.shape == q.shape
    assert seen.grid == (2, 6)  # 70 queries in blocks of 64, two batches of three heads
    assert seen.sent["BD"] == padded
    assert (seen.sent["LQ"], seen.sent["LK"], seen.sent["D"]) == (70, 90, width)
    assert not seen.sent["SPARSE"]
    assert seen.sent["off_h"] == 0


def test_lists_of_blocks_may_be_shared_by_the_heads(monkeypatch) -> None:
    seen = record(monkeypatch, attention, "attention")
    q = torch.randn(1, 2, 64, 16)
    heads, blk = torch.tensor([0, 1]), torch.zeros(4, dtype=torch.int32)
    for off, stride in ((torch.tensor([[0, 2, 4]]), 0), (torch.tensor([[0, 1, 2], [2, 3, 4]]), 3)):
        attention.launch(q, q, q, heads, off.int(), blk, (32, 32), False, 1.0)
        assert seen.sent["SPARSE"]
        assert seen.sent["off_h"] == stride
        assert seen.sent["blk_ptr"] is blk


def test_widths_that_lie_apart_are_copied_and_nothing_launches_nothing(monkeypatch) -> None:
    seen = record(monkeypatch, attention, "attention")
    q = torch.randn(1, 2, 16, 64).transpose(2, 3)
    heads = torch.tensor([0, 1])
    attention.launch(q, q, q, heads, None, None, (32, 32), False, 1.0)
    assert torch.equal(seen.sent["q_ptr"], q)
    assert seen.sent["q_t"] == 16
    empty = q[:, :, :0]
    assert attention.launch(empty, q, q, heads, None, None, (32, 32), False, 1.0).numel() == 0
    assert seen.launches == 1
