"""Block-sparse product y = act(x W^T + b): one program for a tile of rows and a block row.

A program walks the live blocks of its block row in order and keeps the sum in registers: no
atomics, one store, the same bits for a row whatever the batch around it. Consecutive programs share
a block row, so its weights stay in the L2 cache. A very long block row is cut into pieces, whose
sums a second kernel adds in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.activations import ACTIVATION_CODES
from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.derived import derived
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

LONG_ROW = 4.0  # a block row this many times longer than the mean is cut into pieces


@triton.jit
def block_forward(
    x_ptr, val_ptr, lo_ptr, hi_ptr, row_ptr, col_ptr, scale_ptr, bias_ptr,
    M, N, stride_x, stride_y, y_ptr, part_ptr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    SCALE: tl.constexpr, SPLIT: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(1)
    r = tl.load(row_ptr + piece)
    lo = tl.load(lo_ptr + piece)
    hi = tl.load(hi_ptr + piece)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    m_m = o_m[:, None] < M
    p_x = x_ptr + o_m[:, None].to(tl.int64) * stride_x + o_k[None, :]
    p_w = val_ptr + o_n[None, :] * BK + o_k[:, None]
    acc = tl.zeros([BM, BN], dtype=ACC)
    for e in range(lo, hi):
        c = tl.load(col_ptr + e)
        b_x = tl.load(p_x + c * BK, mask=m_m, other=0.0)  # [BM, BK]
        b_w = tl.load(p_w + tl.cast(e, tl.int64) * (BN * BK))  # [BK, BN]
        if UPCAST:
            b_x = b_x.to(tl.float32)
            if not SCALE:
                b_w = b_w.to(tl.float32)
        if SCALE:
            b_s = tl.load(scale_ptr + tl.cast(e, tl.int64) * BN + o_n)
            part = tl.dot(b_x, b_w.to(b_x.dtype), input_precision=PREC, out_dtype=ACC)
            acc += part * b_s[None, :].to(ACC)
        else:
            acc = tl.dot(b_x, b_w, acc, input_precision=PREC, out_dtype=ACC)
    if SPLIT:
        p_part = part_ptr + piece.to(tl.int64) * M * BN + o_m[:, None].to(tl.int64) * BN
        tl.store(p_part + o_n[None, :], acc, mask=m_m)
    else:
        n = r * BN + o_n
        m_n = n[None, :] < N
        if BIAS:
            acc += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :].to(ACC)
        acc = activate(acc, ACT)
        p_y = y_ptr + o_m[:, None].to(tl.int64) * stride_y + n[None, :]
        tl.store(p_y, acc.to(y_ptr.dtype.element_ty), mask=m_m & m_n)


@triton.jit
def block_forward_sum(
    part_ptr, first_ptr, bias_ptr, y_ptr, M, N, stride_y,
    BM: tl.constexpr, BN: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(1)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    m_m = o_m[:, None] < M
    p_part = part_ptr + o_m[:, None].to(tl.int64) * BN + o_n[None, :]
    acc = tl.zeros([BM, BN], dtype=ACC)
    for piece in range(tl.load(first_ptr + r), tl.load(first_ptr + r + 1)):
        acc += tl.load(p_part + tl.cast(piece, tl.int64) * M * BN, mask=m_m, other=0.0)
    n = r * BN + o_n
    if BIAS:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :].to(ACC)
    acc = activate(acc, ACT)
    p_y = y_ptr + o_m[:, None].to(tl.int64) * stride_y + n[None, :]
    tl.store(p_y, acc.to(y_ptr.dtype.element_ty), mask=m_m & (n[None, :] < N))


def pieces(crow: Tensor, row_order: Tensor, limit: float = LONG_ROW) -> dict[str, Tensor | bool]:
    """The programs of a launch: block ranges, longest first, or in row order when rows are cut.

    Computed on the host once for a weight (it reads ``crow``).
    """
    counts = crow.diff().tolist()
    longest = max(counts, default=0)
    mean = sum(counts) / max(len(counts), 1)
    if longest <= max(limit * mean, 1):
        order = row_order.long()
        return {"lo": crow[order], "hi": crow[order + 1], "row": row_order, "split": False}
    size = max(1, round(mean))
    lo, hi, row, first = [], [], [], [0]
    for r, (start, count) in enumerate(zip(crow.tolist(), counts)):
        # An empty row has one empty piece, so that its bias is still written.
        for at in range(start, start + max(count, 1), size):
            lo.append(at)
            hi.append(min(at + size, start + count))
            row.append(r)
        first.append(len(lo))
    as_tensor = {"lo": lo, "hi": hi, "row": row, "first": first}
    found = {
        name: torch.tensor(values, dtype=torch.int32, device=crow.device)
        for name, values in as_tensor.items()
    }
    return {**found, "split": True}


def tile(rows: int, block: tuple[int, int]) -> tuple[int, int, int]:
    """The fixed rows of a tile, warps and stages; stages count double: a column is looked up."""
    bn, bk = block
    if rows <= 16:
        return 16, 2 if bn <= 32 else 4, 5
    if bn >= 128:
        return 128, 8, 5 if bk >= 64 else 7
    if bn >= 64:
        return (128 if rows >= 128 else 64), 4, 5
    return (128 if rows >= 128 else 64), 4, 7


def launch(
    x: Tensor, val: Tensor, at: BlockIndex, scale: Tensor | None, bias: Tensor | None, n: int,
    activation: str,
) -> Tensor:  # fmt: skip
    """act(x W^T + b) with ``n`` outputs."""
    check_device(x)
    _, bn, bk = val.shape
    m, rows = x.shape[0], at.crow.shape[0] - 1
    x = rows_of(x, (at.ccol.shape[0] - 1) * bk)
    y = output(x, m, n)
    work = derived(at.crow, "pieces", lambda: pieces(at.crow, at.row_order))
    here = launch_of("block_forward", val, m, rows, at.ccol.shape[0] - 1)
    bm, warps, stages = chosen(here, Tile(*tile(m, (bn, bk))))
    split = bool(work["split"])
    count = work["lo"].shape[0]
    kind = accuracy(x)
    held = torch.float64 if x.dtype == torch.float64 else torch.float32
    part = output(x, count, m, bn, dtype=held) if split else y
    code, biased = ACTIVATION_CODES[activation], bias is not None
    tiles = triton.cdiv(m, bm)
    block_forward[(tiles, count)](
        x, val, work["lo"], work["hi"], work["row"], at.col, val if scale is None else scale,
        y if bias is None else bias, m, n, x.stride(0), y.stride(0), y, part,
        BM=bm, BN=bn, BK=bk, ACT=code, BIAS=biased, SCALE=scale is not None, SPLIT=split,
        **kind, **options(warps, stages),
    )  # fmt: skip
    if split:
        block_forward_sum[(tiles, rows)](
            part, work["first"], y if bias is None else bias, y, m, n, y.stride(0),
            BM=bm, BN=bn, ACT=code, BIAS=biased, ACC=kind["ACC"], **options(warps, 2),
        )  # fmt: skip
    return finish(y, x)
