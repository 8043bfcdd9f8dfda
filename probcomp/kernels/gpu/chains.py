"""Messages along many binary chains at once, as a scan over products of 2 x 2 matrices.

With base log-odds b and coupling J, the weights of the next site's two states are [[1, e^b],
[1, e^(b + J)]] times those of this one. Products of such matrices are associative; each is divided
by its largest entry, which leaves the ratio that a message is. The other direction walks the chain
backwards by index arithmetic: reversed scans are not to be trusted on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.gpu.runtime import INTERPRETED, check_device, next_power, options

LIMIT = 60.0  # base log-odds are clipped here: e^60 still has an inverse in float32


@triton.jit
def compose(a1, b1, c1, d1, a2, b2, c2, d2):
    """The second matrix times the first, divided by its largest entry."""
    a = a2 * a1 + b2 * c1
    b = a2 * b1 + b2 * d1
    c = c2 * a1 + d2 * c1
    d = c2 * b1 + d2 * d1
    scale = 1.0 / tl.maximum(tl.maximum(a, b), tl.maximum(c, d))
    return a * scale, b * scale, c * scale, d * scale


@triton.jit
def chain_messages(
    base_ptr, coupling_ptr, out_ptr, T, C, stride_t, stride_c, out_t, out_c,
    BT: tl.constexpr, BC: tl.constexpr, REVERSE: tl.constexpr, LIM: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    chain = tl.program_id(0) * BC + tl.arange(0, BC)
    o_t = tl.arange(0, BT)
    m_c = chain < C
    gain = tl.exp(tl.load(coupling_ptr + chain, mask=m_c, other=0.0).to(ACC))  # e^J, [BC]
    v0 = tl.full([BC], 1.0, ACC)
    v1 = tl.full([BC], 1.0, ACC)
    for t0 in range(0, T, BT):
        step = t0 + o_t
        inside = (step < T)[:, None] & m_c[None, :]
        site = (T - 1 - step) if REVERSE else step
        p_b = base_ptr + site[:, None].to(tl.int64) * stride_t + chain[None, :] * stride_c
        base = tl.load(p_b, mask=inside, other=0.0).to(ACC)  # [BT, BC]
        base = tl.minimum(tl.maximum(base, -LIM), LIM)
        off = tl.exp(tl.minimum(-base, 0.0))  # both divided by e^max(b, 0)
        on = tl.exp(tl.minimum(base, 0.0))
        # Steps beyond the end leave the weights as they are.
        a = tl.where(inside, off, 1.0)
        b = tl.where(inside, on, 0.0)
        c = tl.where(inside, off, 0.0)
        d = tl.where(inside, on * gain[None, :], 1.0)
        a, b, c, d = tl.associative_scan((a, b, c, d), 0, compose)
        w0 = a * v0[None, :] + b * v1[None, :]
        w1 = c * v0[None, :] + d * v1[None, :]
        # The weights after a step are the message into the next site of the walk.
        after = step + 1
        to = (T - 1 - after) if REVERSE else after
        p_o = out_ptr + to[:, None].to(tl.int64) * out_t + chain[None, :] * out_c
        message = tl.log(w1) - tl.log(w0)
        tl.store(
            p_o, message.to(out_ptr.dtype.element_ty), mask=(after < T)[:, None] & m_c[None, :]
        )
        last = (o_t == BT - 1)[:, None]
        v0 = tl.sum(tl.where(last, w0, 0.0), 0)
        v1 = tl.sum(tl.where(last, w1, 0.0), 0)
        total = v0 + v1
        v0 = v0 / total
        v1 = v1 / total


def launch(base: Tensor, coupling: Tensor, reverse: bool) -> Tensor:
    """Messages ``[T, C]`` into each site from the sites before it (after it, in reverse)."""
    check_device(base)
    length, chains = base.shape
    out = torch.zeros_like(base, memory_format=torch.contiguous_format)
    if length > 1 and chains > 0:
        # Neighbouring chains side by side in memory are read together; else one chain a program.
        side_by_side = base.stride(1) == 1 and chains > 1
        wide = 16 if side_by_side else 1
        tall = min(next_power(length), 64 if side_by_side else 512)
        chain_messages[(triton.cdiv(chains, wide),)](
            base, coupling, out, length, chains, *base.stride(), *out.stride(),
            BT=max(tall, 2), BC=wide, REVERSE=reverse, LIM=LIMIT,
            ACC=tl.float64 if base.dtype == torch.float64 else tl.float32,
            **options(4, 1 if INTERPRETED else 2),
        )  # fmt: skip
    return out
