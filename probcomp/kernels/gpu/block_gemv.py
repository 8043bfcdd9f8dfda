"""Block-sparse product of a single row: multiply and reduce, for memory-bound decoding.

The blocks are streamed once; sums stay apart for each of the BK columns until the end. The loop is
pipelined only because it is written with `tl.range` and its own number of stages.
"""

import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.activations import ACTIVATION_CODES
from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.gpu.epilogue import activate
from probcomp.kernels.gpu.runtime import (
    accuracy,
    check_device,
    finish,
    options,
    output,
    rows_of,
)
from probcomp.kernels.tiles import Tile, chosen, launch_of


@triton.jit
def block_gemv(
    x_ptr, val_ptr, crow_ptr, order_ptr, col_ptr, bias_ptr, y_ptr,
    N, stride_x, stride_y,
    BN: tl.constexpr, BK: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    r = tl.load(order_ptr + tl.program_id(1))
    lo = tl.load(crow_ptr + r)
    hi = tl.load(crow_ptr + r + 1)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    p_w = val_ptr + o_n[:, None] * BK + o_k[None, :]
    acc = tl.zeros([BN, BK], dtype=ACC)
    for e in tl.range(lo, hi, num_stages=STAGES):
        c = tl.load(col_ptr + e)
        b_x = tl.load(x_ptr + m * stride_x + c * BK + o_k).to(ACC)  # [BK]
        b_w = tl.load(p_w + tl.cast(e, tl.int64) * (BN * BK)).to(ACC)  # [BN, BK]
        acc += b_w * b_x[None, :]
    total = tl.sum(acc, 1)
    n = r * BN + o_n
    if BIAS:
        total += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(ACC)
    total = activate(total, ACT)
    tl.store(y_ptr + m * stride_y + n, total.to(y_ptr.dtype.element_ty), mask=n < N)


def launch(
    x: Tensor, val: Tensor, at: BlockIndex, bias: Tensor | None, n: int, activation: str
) -> Tensor:
    """act(x W^T + b) for a few rows of x, one program for each and each block row."""
    check_device(x)
    _, bn, bk = val.shape
    x = rows_of(x, (at.ccol.shape[0] - 1) * bk)
    y = output(x, x.shape[0], n)
    rows = at.crow.shape[0] - 1
    here = launch_of("block_gemv", val, x.shape[0], rows, at.ccol.shape[0] - 1)
    _, warps, stages = chosen(here, Tile(1, 4, 5))
    block_gemv[(x.shape[0], rows)](
        x, val, at.crow, at.row_order, at.col, y if bias is None else bias, y, n,
        x.stride(0), y.stride(0),
        BN=bn, BK=bk, ACT=ACTIVATION_CODES[activation], BIAS=bias is not None,
        ACC=accuracy(x)["ACC"], STAGES=stages, **options(warps, stages),
    )  # fmt: skip
    return finish(y, x)
