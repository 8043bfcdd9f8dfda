"""What the launches of the sampled layers pass."""

import pytest
import torch

from probcomp.kernels import pack
from probcomp.kernels.gpu import reparameterised
from probcomp.kernels.gpu.reparameterised import DENSE_BLOCK, noise_tile
from tests.kernels.gpu.recorder import covered, record
from tests.kernels.supports import block_support


def test_tiles_leave_registers_for_the_noise() -> None:
    for rows in (1, 16, 17, 500):
        for bn in (16, 32, 64, 128):
            tall, warps, _ = noise_tile(rows, bn)
            # Each normal of a thread inlines Philox: 16 of them spill.
            assert tall * bn / (32 * warps) <= 16
            assert tall == 16 or rows > 16


@pytest.mark.parametrize("rows", [3, 100])
def test_whole_matrices_and_blocks_share_the_kernel(rows: int, monkeypatch) -> None:
    seen = record(monkeypatch, reparameterised, "reparameterised")
    x, mean = torch.randn(rows, 60), torch.randn(70, 60)
    y, half = reparameterised.launch_dense(x, mean, mean.square(), None, 5)
    assert y.shape == half.shape == (rows, 70)
    assert covered(seen.grid[0], seen.sent["BM"], rows)
    assert covered(seen.grid[1], DENSE_BLOCK[0], 70)
    assert (seen.sent["K"], seen.sent["stride_w"], seen.sent["seed"]) == (60, 60, 5)
    assert seen.sent["DENSE"]
    assert not seen.sent["BIAS"]

    support = block_support((70, 60), (32, 16), 0.5, 1)
    packed = pack(mean, support, block=(32, 16), format="blocks", bias=torch.ones(70))
    var = packed.val.square()
    y, _ = reparameterised.launch(x, packed.val, var, packed.index, packed.bias, 70, 6)
    assert y.shape == (rows, 70)
    assert seen.grid[1] == 3
    assert seen.sent["x_ptr"].shape == (rows, 64)
    assert seen.sent["bias_ptr"] is packed.bias
    assert not seen.sent["DENSE"]
    assert (seen.sent["seed"], seen.sent["BIAS"]) == (6, True)


def test_a_transposed_matrix_is_laid_in_rows(monkeypatch) -> None:
    seen = record(monkeypatch, reparameterised, "reparameterised")
    mean = torch.randn(60, 70).t()
    reparameterised.launch_dense(torch.randn(2, 60), mean, mean.square(), None, 1)
    assert torch.equal(seen.sent["mean_ptr"], mean)
    assert seen.sent["mean_ptr"].stride() == (60, 1)
