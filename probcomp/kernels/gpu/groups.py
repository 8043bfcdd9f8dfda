"""N:M weights for a few rows of input: values and 2- or 4-bit positions stream, x is gathered.

A matrix unit cannot read this format without expanding it, so there is no gain for many rows; with
few, the product waits on memory, and 2:4 in 16 bits moves 0.5625 of the dense bytes.
"""

import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.gpu.runtime import accuracy, check_device, finish, options, output, rows_of
from probcomp.kernels.nm import code_bits

TALL, WIDE, STAGES, WARPS = 16, 256, 4, 4
"""Outputs and stored values of a tile: 16 rows that each read 512 bytes in 16-bit values."""


@triton.jit
def group_gemv(
    x_ptr, val_ptr, code_ptr, y_ptr, N, KEPT, CODES, stride_x, stride_y,
    BN: tl.constexpr, BE: tl.constexpr, KEEP: tl.constexpr, GROUP: tl.constexpr,
    BITS: tl.constexpr, ACC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    o_e = tl.arange(0, BE)
    m_n = (o_n < N)[:, None]
    p_w = val_ptr + o_n[:, None].to(tl.int64) * KEPT
    p_c = code_ptr + o_n[:, None].to(tl.int64) * CODES
    each: tl.constexpr = 8 // BITS  # positions in a byte
    acc = tl.zeros([BN, BE], dtype=ACC)
    for start in tl.range(0, KEPT, BE, num_stages=STAGES):
        e = start + o_e
        inside = m_n & (e < KEPT)[None, :]
        b_w = tl.load(p_w + e[None, :], mask=inside, other=0.0).to(ACC)
        byte = tl.load(p_c + (e // each)[None, :], mask=inside, other=0).to(tl.int32)
        place = (byte >> ((e % each) * BITS)[None, :]) & ((1 << BITS) - 1)
        column = (e // KEEP * GROUP)[None, :] + place
        b_x = tl.load(x_ptr + m * stride_x + column, mask=inside, other=0.0).to(ACC)
        acc += b_w * b_x
    total = tl.sum(acc, 1)
    tl.store(y_ptr + m * stride_y + o_n, total.to(y_ptr.dtype.element_ty), mask=o_n < N)


def launch(x: Tensor, val: Tensor, code: Tensor, kept: int, group: int) -> Tensor:
    """x W^T ``[M, N]``, one program for each row and each 16 outputs."""
    check_device(x)
    x = rows_of(x, x.shape[1])
    n, stored = val.shape
    y = output(x, x.shape[0], n)
    group_gemv[(x.shape[0], triton.cdiv(n, TALL))](
        x, val, code, y, n, stored, code.shape[1], x.stride(0), y.stride(0),
        BN=TALL, BE=WIDE, KEEP=kept, GROUP=group, BITS=code_bits(group),
        ACC=accuracy(x)["ACC"], STAGES=STAGES, **options(WARPS, STAGES),
    )  # fmt: skip
    return finish(y, x)
