"""The programs of the gradients: tiles, and rows of a batch shared out over programs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.kernels import pack
from probcomp.kernels.gpu import block_backward
from probcomp.kernels.gpu.block_backward import PROGRAMS, input_tile, weight_split
from tests.kernels.gpu.recorder import covered, record
from tests.kernels.supports import block_support


@given(rows=st.integers(1, 5000), nnz=st.integers(1, 400), tall=st.sampled_from([16, 64, 128]))
def test_parts_cover_every_row_once(rows: int, nnz: int, tall: int) -> None:
    bm, parts, step = weight_split(rows, nnz, (tall, 32))
    assert step % bm == 0
    assert parts * step >= rows
    assert (parts - 1) * 4 * bm < rows  # no program has less than four tiles to add up, bar one
    assert parts == 1 or parts * nnz <= 4 * PROGRAMS


def test_many_blocks_are_not_split_and_few_are() -> None:
    assert weight_split(4096, 1000, (64, 64))[1] == 1
    assert weight_split(4096, 4, (64, 64))[1] > 1
    assert [input_tile(rows, 64) for rows in (1, 16, 17, 127, 128)] == [16, 16, 64, 64, 128]
    assert input_tile(4096, 32) == 64


def example():
    support = block_support((70, 60), (32, 16), 0.5, 1)
    return pack(torch.randn(70, 60), support, block=(32, 16), format="blocks")


def test_the_input_gradient_walks_block_columns(monkeypatch) -> None:
    packed, seen = example(), record(monkeypatch, block_backward, "block_backward_input")
    dx = block_backward.launch_input(torch.randn(40, 70), packed.val, packed.index, 60)
    assert dx.shape == (40, 60)
    assert covered(seen.grid[0], seen.sent["BM"], 40)
    assert seen.grid[1] == 4
    assert seen.sent["g_ptr"].shape == (40, 96)
    assert (seen.sent["M"], seen.sent["K"]) == (40, 60)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_parts_of_a_weight_gradient_add_up_in_float32_or_wider(dtype, monkeypatch) -> None:
    packed, seen = example(), record(monkeypatch, block_backward, "block_backward_weight")
    grad, x = torch.randn(4000, 70).to(dtype), torch.randn(4000, 60).to(dtype)
    out = block_backward.launch_weight(grad, x, packed.index, (32, 16))
    assert out.dtype == dtype
    assert out.shape == packed.val.shape
    nnz, parts = seen.grid
    assert nnz == packed.val.shape[0]
    assert parts > 1
    assert seen.sent["dval_ptr"].shape == (parts, nnz, 32, 16)
    assert seen.sent["dval_ptr"].dtype == torch.promote_types(dtype, torch.float32)


def test_no_block_has_no_launch(monkeypatch) -> None:
    seen = record(monkeypatch, block_backward, "block_backward_weight")
    nothing = torch.zeros(32, 32, dtype=torch.bool)
    packed = pack(torch.ones(32, 32), nothing, block=(16, 16), format="blocks")
    x = torch.ones(3, 32)
    assert block_backward.launch_weight(x, x, packed.index, (16, 16)).shape == (0, 16, 16)
    assert not seen.launches
