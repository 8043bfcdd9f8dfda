"""Gradients of the block-sparse product: dx over live blocks by column, dW of live blocks only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.gpu.runtime import (
    accuracy,
    check_device,
    finish,
    next_power,
    options,
    output,
    rows_of,
)

PROGRAMS = 264  # two for each of 132 multiprocessors: fewer leave a large GPU idle


@triton.jit
def block_backward_input(
    g_ptr, val_ptr, ccol_ptr, trow_ptr, perm_ptr, M, K, stride_g, stride_x, dx_ptr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    m_m = o_m[:, None] < M
    p_g = g_ptr + o_m[:, None].to(tl.int64) * stride_g + o_n[None, :]
    p_w = val_ptr + o_n[:, None] * BK + o_k[None, :]
    acc = tl.zeros([BM, BK], dtype=ACC)
    for i in range(tl.load(ccol_ptr + c), tl.load(ccol_ptr + c + 1)):
        e = tl.load(perm_ptr + i).to(tl.int64)
        r = tl.load(trow_ptr + i)
        b_g = tl.load(p_g + r * BN, mask=m_m, other=0.0)  # [BM, BN]
        b_w = tl.load(p_w + e * (BN * BK))  # [BN, BK]
        if UPCAST:
            b_g = b_g.to(tl.float32)
            b_w = b_w.to(tl.float32)
        acc = tl.dot(b_g, b_w, acc, input_precision=PREC, out_dtype=ACC)
    k = c * BK + o_k
    p_x = dx_ptr + o_m[:, None].to(tl.int64) * stride_x + k[None, :]
    tl.store(p_x, acc.to(dx_ptr.dtype.element_ty), mask=m_m & (k[None, :] < K))


@triton.jit
def block_backward_weight(
    g_ptr, x_ptr, erow_ptr, col_ptr, M, STEP, blocks, stride_g, stride_x, dval_ptr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0)
    part = tl.program_id(1)
    r = tl.load(erow_ptr + e)
    c = tl.load(col_ptr + e)
    o_m = tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    acc = tl.zeros([BN, BK], dtype=ACC)
    first = part * STEP
    for m0 in range(first, tl.minimum(first + STEP, M), BM):
        m = m0 + o_m
        row = m.to(tl.int64)
        p_g = g_ptr + row[None, :] * stride_g + r * BN + o_n[:, None]
        p_x = x_ptr + row[:, None] * stride_x + c * BK + o_k[None, :]
        b_g = tl.load(p_g, mask=m[None, :] < M, other=0.0)  # [BN, BM]
        b_x = tl.load(p_x, mask=m[:, None] < M, other=0.0)  # [BM, BK]
        if UPCAST:
            b_g = b_g.to(tl.float32)
            b_x = b_x.to(tl.float32)
        acc = tl.dot(b_g, b_x, acc, input_precision=PREC, out_dtype=ACC)
    at = part.to(tl.int64) * blocks + e
    p_d = dval_ptr + at * (BN * BK) + o_n[:, None] * BK + o_k[None, :]
    tl.store(p_d, acc.to(dval_ptr.dtype.element_ty))


def input_tile(rows: int, bk: int) -> int:
    """Rows of a tile of dx."""
    return 16 if rows <= 16 else 64 if rows < 128 or bk < 64 else 128


def weight_split(rows: int, nnz: int, block: tuple[int, int]) -> tuple[int, int, int]:
    """Rows of a step, programs that share a block's rows, and rows of one of them."""
    bm = 32 if max(block) >= 128 else 64
    parts = max(1, min(next_power(PROGRAMS // nnz), triton.cdiv(rows, 4 * bm)))
    return bm, parts, triton.cdiv(triton.cdiv(rows, parts), bm) * bm


def launch_input(grad: Tensor, val: Tensor, at: BlockIndex, k: int) -> Tensor:
    """dx = dy W, ``[M, k]``."""
    check_device(grad)
    _, bn, bk = val.shape
    g = rows_of(grad, (at.crow.shape[0] - 1) * bn)
    dx = output(grad, grad.shape[0], k)
    bm = input_tile(g.shape[0], bk)
    block_backward_input[(triton.cdiv(g.shape[0], bm), at.ccol.shape[0] - 1)](
        g, val, at.ccol, at.trow, at.perm, g.shape[0], k, g.stride(0), dx.stride(0), dx,
        BM=bm, BN=bn, BK=bk, **accuracy(grad), **options(4, 5),
    )  # fmt: skip
    return finish(dx, grad)


def launch_weight(grad: Tensor, x: Tensor, at: BlockIndex, block: tuple[int, int]) -> Tensor:
    """dval = dy^T x on the live blocks, ``[nnz, BN, BK]``.

    With few live blocks the rows of the batch are split over programs, and the parts are added in
    a fixed order afterwards.
    """
    check_device(grad)
    bn, bk = block
    nnz, m = at.erow.shape[0], grad.shape[0]
    if nnz == 0:
        return grad.new_empty(0, bn, bk)
    g = rows_of(grad, (at.crow.shape[0] - 1) * bn)
    x = rows_of(x, (at.ccol.shape[0] - 1) * bk)
    bm, parts, step = weight_split(m, nnz, (bn, bk))
    held = grad.dtype if parts == 1 else torch.promote_types(grad.dtype, torch.float32)
    out = output(grad, parts, nnz, bn, bk, dtype=held)
    block_backward_weight[(nnz, parts)](
        g, x, at.erow, at.col, m, step, nnz, g.stride(0), x.stride(0), out,
        BM=bm, BN=bn, BK=bk, **accuracy(grad), **options(4, 3),
    )  # fmt: skip
    return finish(out[0] if parts == 1 else out.sum(0), grad)
