"""Attention over live heads and live blocks of scores, with a running softmax.

Each query head has its own key-value head, so heads that survive in unequal numbers need no copies;
a list of live blocks for each block of queries skips the rest. A query row that may read nothing
gives zero.
"""

import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.gpu.runtime import accuracy, check_device, finish, next_power, options, output

WARPS, STAGES = 4, 3


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, kv_ptr, off_ptr, blk_ptr, o_ptr, H, LQ, LK, D, scale,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t, off_h,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, CAUSAL: tl.constexpr,
    SPARSE: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    g = tl.load(kv_ptr + h).to(tl.int64)
    o_m = row * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, BD)
    m_d = (o_d < D)[None, :]
    m_q = (o_m < LQ)[:, None] & m_d
    b_q = tl.load(
        q_ptr + b * q_b + h.to(tl.int64) * q_h + o_m[:, None].to(tl.int64) * q_t + o_d[None, :],
        mask=m_q, other=0.0,
    )  # fmt: skip
    if UPCAST:
        b_q = b_q.to(tl.float32)
    best = tl.full([BM], float("-inf"), ACC)
    mass = tl.zeros([BM], ACC)
    acc = tl.zeros([BM, BD], ACC)
    last = tl.cdiv(LK, BN)
    if CAUSAL:  # the last query of the block sits at this key
        last = tl.minimum(last, (tl.minimum((row + 1) * BM, LQ) + LK - LQ + BN - 1) // BN)
    lo = 0
    hi = last
    if SPARSE:
        lo = tl.load(off_ptr + h * off_h + row)
        hi = tl.load(off_ptr + h * off_h + row + 1)
    for e in range(lo, hi):
        c = e
        if SPARSE:
            c = tl.load(blk_ptr + e)
        n = c * BN + o_n
        m_k = (n < LK)[:, None] & m_d
        b_k = tl.load(
            k_ptr + b * k_b + g * k_h + n[:, None].to(tl.int64) * k_t + o_d[None, :],
            mask=m_k, other=0.0,
        )  # fmt: skip
        b_v = tl.load(
            v_ptr + b * v_b + g * v_h + n[:, None].to(tl.int64) * v_t + o_d[None, :],
            mask=m_k, other=0.0,
        )  # fmt: skip
        if UPCAST:
            b_k = b_k.to(tl.float32)
            b_v = b_v.to(tl.float32)
        s = tl.dot(b_q, tl.trans(b_k), input_precision=PREC, out_dtype=ACC) * scale
        seen = (n < LK)[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= o_m[:, None] + (LK - LQ))
        s = tl.where(seen, s, float("-inf"))
        peak = tl.maximum(best, tl.max(s, 1))
        # A row that has seen nothing yet has a peak of minus infinity, which is not subtracted.
        base = tl.where(peak == float("-inf"), 0.0, peak)
        weight = tl.exp(s - base[:, None])
        fade = tl.exp(best - base)
        mass = mass * fade + tl.sum(weight, 1)
        acc = acc * fade[:, None]
        acc = tl.dot(weight.to(b_v.dtype), b_v, acc, input_precision=PREC, out_dtype=ACC)
        best = peak
    acc = acc / tl.where(mass > 0, mass, 1.0)[:, None]
    p_o = o_ptr + b * o_b + h.to(tl.int64) * o_h + o_m[:, None].to(tl.int64) * o_t
    tl.store(p_o + o_d[None, :], acc.to(o_ptr.dtype.element_ty), mask=m_q)


def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_head: Tensor,
    off: Tensor | None,
    blk: Tensor | None,
    block: tuple[int, int],
    causal: bool,
    scale: float,
) -> Tensor:
    """Output ``[B, H, LQ, D]``; see `probcomp.kernels.attention`."""
    check_device(query)
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    batch, heads, length, width = query.shape
    out = output(query, batch, heads, length, width)
    if out.numel() == 0:
        return finish(out, query)
    sparse = off is not None and blk is not None
    first, second = (off, blk) if sparse else (kv_head, kv_head)
    per_head = off.stride(0) if sparse and off.shape[0] > 1 else 0  # type: ignore[union-attr]
    attention[(triton.cdiv(length, block[0]), batch * heads)](
        query, key, value, kv_head, first, second, out,
        heads, length, key.shape[2], width, scale,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *out.stride()[:3], per_head,
        BM=block[0], BN=block[1], BD=max(16, next_power(width)), CAUSAL=causal, SPARSE=sparse,
        **accuracy(query), **options(WARPS, STAGES),
    )  # fmt: skip
    return finish(out, query)
