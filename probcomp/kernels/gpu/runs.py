"""Clustered runs: a panel of outputs gathers the input by 16-column segments, four a product."""

import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.gpu.runtime import accuracy, check_device, finish, options, output, rows_of

GROUP = 4  # segments of one product: an inner dimension of 64


@triton.jit
def run_forward(
    x_ptr, val_ptr, ptr_ptr, seg_ptr, y_ptr, M, stride_x, stride_y,
    BM: tl.constexpr, BN: tl.constexpr, SEG: tl.constexpr, G: tl.constexpr, ACC: tl.constexpr,
    UPCAST: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    panel = tl.program_id(1)
    lo = tl.load(ptr_ptr + panel)
    hi = tl.load(ptr_ptr + panel + 1)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, G * SEG)
    m_m = o_m[:, None] < M
    p_x = x_ptr + o_m[:, None].to(tl.int64) * stride_x
    p_w = val_ptr + o_k[:, None] * BN + o_n[None, :]
    acc = tl.zeros([BM, BN], dtype=ACC)
    for s in range(lo, hi, G):
        piece = s + o_k // SEG
        m_k = piece < hi
        column = tl.load(seg_ptr + piece, mask=m_k, other=0) + o_k % SEG
        b_x = tl.load(p_x + column[None, :], mask=m_m & m_k[None, :], other=0.0)  # [BM, G SEG]
        b_w = tl.load(
            p_w + tl.cast(s, tl.int64) * (SEG * BN), mask=m_k[:, None], other=0.0
        )  # [G SEG, BN]
        if UPCAST:
            b_x = b_x.to(tl.float32)
            b_w = b_w.to(tl.float32)
        acc = tl.dot(b_x, b_w, acc, input_precision=PREC, out_dtype=ACC)
    p_y = y_ptr + o_m[:, None].to(tl.int64) * stride_y + panel * BN + o_n[None, :]
    tl.store(p_y, acc.to(y_ptr.dtype.element_ty), mask=m_m)


def launch(x: Tensor, val: Tensor, ptr: Tensor, seg: Tensor) -> Tensor:
    """Products in stored row order, ``[M, P BN]``; the caller undoes the order."""
    check_device(x)
    _, width, panel = val.shape
    x = rows_of(x, -(-x.shape[1] // width) * width)
    panels = ptr.shape[0] - 1
    y = output(x, x.shape[0], panels * panel)
    bm = 16 if x.shape[0] <= 16 else 64
    run_forward[(triton.cdiv(x.shape[0], bm), panels)](
        x, val, ptr, seg, y, x.shape[0], x.stride(0), y.stride(0),
        BM=bm, BN=panel, SEG=width, G=GROUP, **accuracy(x), **options(4, 5),
    )  # fmt: skip
    return finish(y, x)
