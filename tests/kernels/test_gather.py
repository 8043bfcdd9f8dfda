"""Block products in plain PyTorch: both orientations and both gradients, against dense ones."""

import pytest
import torch

from probcomp.kernels import gather, pack
from tests.kernels.supports import block_support, folded, generator, relative_error

FLOAT64 = 1e-13


@pytest.mark.parametrize("m", [1, gather.FEW_ROWS, gather.FEW_ROWS + 1])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_products_and_gradients(m: int, density: float) -> None:
    weight = torch.randn(40, 50, generator=generator(0), dtype=torch.float64)
    support = block_support((40, 50), (16, 8), density, 1)
    packed = pack(weight, support, block=(16, 8), format="blocks")
    dense = folded(weight, support)
    x = torch.randn(m, 50, generator=generator(2), dtype=torch.float64)
    g = torch.randn(m, 40, generator=generator(3), dtype=torch.float64)
    at = packed.index
    assert relative_error(gather.block_forward(x, packed.val, at, 40), x @ dense.T) < FLOAT64
    assert relative_error(gather.block_backward_input(g, packed.val, at, 50), g @ dense) < FLOAT64
    live = pack(g.T @ x, support, block=(16, 8), format="blocks").val
    assert relative_error(gather.block_backward_weight(g, x, at, (16, 8)), live) < FLOAT64
