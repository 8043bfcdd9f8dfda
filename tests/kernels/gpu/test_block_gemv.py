"""What a launch of the single-row kernel passes."""

import torch

from probcomp.kernels import pack, tiles
from probcomp.kernels.gpu import block_gemv
from probcomp.kernels.tiles import Tile
from tests.kernels.gpu.recorder import record
from tests.kernels.supports import block_support


def test_one_program_for_each_row_and_block_row(monkeypatch) -> None:
    support = block_support((70, 60), (32, 16), 0.5, 1)
    packed = pack(torch.randn(70, 60), support, block=(32, 16), format="blocks")
    seen = record(monkeypatch, block_gemv, "block_gemv")
    y = block_gemv.launch(torch.randn(2, 60), packed.val, packed.index, None, 70, "silu")
    assert y.shape == (2, 70)
    assert seen.grid == (2, 3)
    assert seen.sent["x_ptr"].shape == (2, 64)
    assert (seen.sent["N"], seen.sent["ACT"], seen.sent["BIAS"]) == (70, 4, False)
    with tiles.using(Tile(1, 8, 3)):
        block_gemv.launch(torch.randn(1, 60), packed.val, packed.index, None, 70, "none")
    # The loop is pipelined by its own number of stages, and so is the launch.
    assert seen.sent["STAGES"] == seen.sent["num_stages"] == 3
    assert seen.sent["num_warps"] == 8
