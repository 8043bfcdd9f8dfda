"""What the custom ops call: the launcher that fits the batch."""

from torch import Tensor

from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.gpu import block_backward, block_forward, block_gemv, runs

GEMV_ROWS = 1  # a tile product padded to 16 rows beats the reduction from 2 rows on, so far


def block_linear(
    x: Tensor, val: Tensor, at: BlockIndex, scale: Tensor | None, bias: Tensor | None, n: int,
    activation: str,
) -> Tensor:  # fmt: skip
    """act(x W^T + b) by the reduction for a single row, else by the tile product."""
    # A single row of a wide layer has too few tiles to fill a GPU; int8 needs the tile product.
    if x.shape[0] <= GEMV_ROWS and scale is None:
        return block_gemv.launch(x, val, at, bias, n, activation)
    return block_forward.launch(x, val, at, scale, bias, n, activation)


run_linear = runs.launch
block_backward_input = block_backward.launch_input
block_backward_weight = block_backward.launch_weight
