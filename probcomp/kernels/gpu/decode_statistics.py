"""One read of the logits: running maximum, second maximum, sums, then a merge of the parts.

Parts with maxima m, m' are merged at n = max(m, m') by e^(m - n) (u + (m - n) z) and e^(m - n) z.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.gpu.runtime import INTERPRETED, check_device, next_power, options

PROGRAMS = 264


@triton.jit
def decode_parts(
    x_ptr, m1_ptr, m2_ptr, arg_ptr, z_ptr, u_ptr,
    V, SPAN, stride_x, inverse_t,
    BV: tl.constexpr, SPLIT: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    o_v = tl.arange(0, BV)
    low = float("-inf")
    m1 = tl.full([], low, ACC)
    m2 = tl.full([], low, ACC)
    arg = tl.full([], 0, tl.int32)
    z = tl.zeros([], ACC)
    u = tl.zeros([], ACC)
    bad = tl.full([], 0, tl.int32)
    first = part * SPAN
    for v0 in range(first, tl.minimum(first + SPAN, V), BV):
        v = v0 + o_v
        b_x = tl.load(x_ptr + row * stride_x + v, mask=v < V, other=low)  # [BV]
        if UPCAST:
            b_x = b_x.to(tl.float32)
        b_x = b_x.to(ACC) * inverse_t
        # A hardware maximum drops NaN without a word: count it apart, and keep it out of the rest.
        nan = b_x != b_x
        bad += tl.sum(nan.to(tl.int32), 0)
        b_x = tl.where(nan, low, b_x)
        b1 = tl.max(b_x, 0)
        at = tl.min(tl.where(b_x == b1, v, 2147483647), 0)  # the lowest index of a tie
        b2 = tl.max(tl.where(v == at, low, b_x), 0)
        # An all minus-infinite chunk has no reference point; its terms are all zero.
        base = tl.where(b1 == low, 0.0, b1)
        shift = b_x - base
        weight = tl.exp(shift)
        bz = tl.sum(weight, 0)
        bu = tl.sum(tl.where(weight > 0, shift * weight, 0.0), 0)
        n = tl.maximum(m1, b1)
        safe = tl.where(n == low, 0.0, n)
        old = tl.where(m1 == low, 0.0, tl.exp(m1 - safe))
        new = tl.where(b1 == low, 0.0, tl.exp(b1 - safe))
        u = tl.where(m1 == low, 0.0, old * (u + (m1 - safe) * z)) + tl.where(
            b1 == low, 0.0, new * (bu + (b1 - safe) * bz)
        )
        z = old * z + new * bz
        m2 = tl.maximum(tl.minimum(m1, b1), tl.maximum(m2, b2))
        arg = tl.where(b1 > m1, at, arg)  # strictly: an earlier chunk keeps a tie
        m1 = n
    o = row * SPLIT + part
    tl.store(m1_ptr + o, m1)
    tl.store(m2_ptr + o, m2)
    tl.store(arg_ptr + o, arg)
    tl.store(z_ptr + o, tl.where(bad > 0, float("nan"), z))
    tl.store(u_ptr + o, u)


def launch(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """m1, m2, argmax, Z and U of each row of ``[R, V]``; NaN in Z marks a row with a NaN."""
    check_device(logits)
    x = logits if logits.stride(1) == 1 else logits.contiguous()
    rows, vocabulary = x.shape
    # The interpreter pays for each step, not for its width.
    width = min(next_power(vocabulary), 131072 if INTERPRETED else 4096)
    split = max(1, min(32, next_power(PROGRAMS // rows), triton.cdiv(vocabulary, width)))
    return merge(*parts(x, temperature, width, split))


def parts(
    x: Tensor, temperature: float, width: int, split: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The sums of each of ``split`` spans of every row, each ``[R, split]``."""
    rows, vocabulary = x.shape
    span = triton.cdiv(triton.cdiv(vocabulary, split), width) * width
    wide = x.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    m1, m2, z, u = torch.empty(4, rows, split, dtype=dtype, device=x.device)
    arg = torch.empty(rows, split, dtype=torch.int32, device=x.device)
    decode_parts[(rows, split)](
        x, m1, m2, arg, z, u, vocabulary, span, x.stride(0), 1.0 / temperature,
        BV=width, SPLIT=split, ACC=tl.float64 if wide else tl.float32,
        UPCAST=INTERPRETED and x.dtype == torch.bfloat16, **options(8, 3),
    )  # fmt: skip
    return m1, m2, arg, z, u


def merge(
    m1: Tensor, m2: Tensor, arg: Tensor, z: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Merge the spans of each row; ``[R, split]`` is too little work for a kernel of its own."""
    low = float("-inf")
    best, which = m1.max(1, keepdim=True)  # the first of equal spans holds the lowest index
    others = m1.scatter(1, which, low)
    second = torch.maximum(others.max(1).values, m2.max(1).values)
    shift = torch.where(m1 == low, torch.zeros_like(m1), m1 - best)
    factor = torch.where(m1 == low, torch.zeros_like(m1), shift.exp())
    total = (factor * z).sum(1)
    moment = (factor * (u + shift * z)).sum(1)
    return best.squeeze(1), second, arg.gather(1, which).squeeze(1).long(), total, moment
