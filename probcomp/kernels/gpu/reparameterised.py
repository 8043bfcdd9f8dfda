"""Mean, variance and noise of a Bayesian linear layer in one walk over its weights.

The weights are live blocks, or whole matrices of which nothing is left out.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.gpu.runtime import accuracy, check_device, finish, options, output, rows_of


@triton.jit
def reparameterised(
    x_ptr, mean_ptr, var_ptr, crow_ptr, order_ptr, col_ptr, bias_ptr, y_ptr, half_ptr,
    M, N, K, seed, stride_x, stride_y, stride_w,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BIAS: tl.constexpr, DENSE: tl.constexpr,
    ACC: tl.constexpr, UPCAST: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    if DENSE:
        r = tl.program_id(1)
        lo = 0
        hi = tl.cdiv(K, BK)
    else:
        r = tl.load(order_ptr + tl.program_id(1))
        lo = tl.load(crow_ptr + r)
        hi = tl.load(crow_ptr + r + 1)
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    m_m = o_m[:, None] < M
    p_x = x_ptr + o_m[:, None].to(tl.int64) * stride_x + o_k[None, :]
    if DENSE:
        o_w = (r * BN + o_n)[None, :].to(tl.int64) * stride_w + o_k[:, None]
        m_n = (r * BN + o_n)[None, :] < N
    else:
        o_w = o_n[None, :] * BK + o_k[:, None]
    mean = tl.zeros([BM, BN], dtype=ACC)
    var = tl.zeros([BM, BN], dtype=ACC)
    for e in range(lo, hi):
        if DENSE:
            m_k = e * BK + o_k < K
            b_x = tl.load(p_x + e * BK, mask=m_m & m_k[None, :], other=0.0)  # [BM, BK]
            b_m = tl.load(mean_ptr + e * BK + o_w, mask=m_k[:, None] & m_n, other=0.0)  # [BK, BN]
            b_v = tl.load(var_ptr + e * BK + o_w, mask=m_k[:, None] & m_n, other=0.0)
        else:
            c = tl.load(col_ptr + e)
            at = tl.cast(e, tl.int64) * (BN * BK)
            b_x = tl.load(p_x + c * BK, mask=m_m, other=0.0)  # [BM, BK]
            b_m = tl.load(mean_ptr + at + o_w)  # [BK, BN]
            b_v = tl.load(var_ptr + at + o_w)  # [BK, BN]
        if UPCAST:
            b_x = b_x.to(tl.float32)
            b_m = b_m.to(tl.float32)
            b_v = b_v.to(tl.float32)
        mean = tl.dot(b_x, b_m, mean, input_precision=PREC, out_dtype=ACC)
        var = tl.dot(b_x * b_x, b_v, var, input_precision=PREC, out_dtype=ACC)
    n = r * BN + o_n
    m_y = m_m & (n[None, :] < N)
    # Four normals from one Philox call; the counter is the place in the output, so the noise does
    # not depend on the tile that computes it.
    o_q = tl.arange(0, BN // 4)
    quads = tl.cdiv(N, 4)
    counter = o_m[:, None] * quads + r * (BN // 4) + o_q[None, :]
    e0, e1, e2, e3 = tl.randn4x(seed, counter)
    noise = tl.join(tl.join(e0, e1), tl.join(e2, e3)).reshape(BM, BN).to(ACC)
    # A row without live weights has variance zero, and exactly no noise.
    sd = tl.sqrt(tl.maximum(var, 0.0))
    half = tl.where(var > 0, noise / (2.0 * sd), 0.0)
    y = mean + tl.where(var > 0, sd * noise, 0.0)
    if BIAS:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :].to(ACC)
    at_y = o_m[:, None].to(tl.int64) * stride_y + n[None, :]
    tl.store(y_ptr + at_y, y.to(y_ptr.dtype.element_ty), mask=m_y)
    tl.store(half_ptr + at_y, half.to(half_ptr.dtype.element_ty), mask=m_y)


DENSE_BLOCK = (32, 32)  # low: at few rows a tall tile leaves too few programs to fill a GPU


def noise_tile(rows: int, bn: int) -> tuple[int, int, int]:
    """Rows of a tile, warps and stages. Philox is inlined for each normal of a thread, so many
    threads and small tiles keep the code short and the registers unspilled."""
    return (16, 4, 5) if rows <= 16 else (32 if bn >= 64 else 64, 8, 5)


def launch(
    x: Tensor, mean: Tensor, var: Tensor, at: BlockIndex, bias: Tensor | None, n: int, seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The sampled output and eps / (2 sd), both ``[M, n]``."""
    check_device(x)
    _, bn, bk = mean.shape
    x = rows_of(x, (at.ccol.shape[0] - 1) * bk)
    y = output(x, x.shape[0], n)
    half = torch.empty_like(y)
    bm, warps, stages = noise_tile(x.shape[0], bn)
    reparameterised[(triton.cdiv(x.shape[0], bm), at.crow.shape[0] - 1)](
        x, mean, var, at.crow, at.row_order, at.col, y if bias is None else bias, y, half,
        x.shape[0], n, 0, seed, x.stride(0), y.stride(0), 0,
        BM=bm, BN=bn, BK=bk, BIAS=bias is not None, DENSE=False, **accuracy(x),
        **options(warps, stages),
    )  # fmt: skip
    return finish(y, x), finish(half, x)


def launch_dense(
    x: Tensor, mean: Tensor, var: Tensor, bias: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """As `launch`, for whole matrices ``[N, K]``."""
    check_device(x)
    n, k = mean.shape
    x, mean, var = rows_of(x, k), mean.contiguous(), var.contiguous()
    y = output(x, x.shape[0], n)
    half = torch.empty_like(y)
    bm, warps, stages = noise_tile(x.shape[0], DENSE_BLOCK[0])
    reparameterised[(triton.cdiv(x.shape[0], bm), triton.cdiv(n, DENSE_BLOCK[0]))](
        x, mean, var, y, y, y, y if bias is None else bias, y, half,
        x.shape[0], n, k, seed, x.stride(0), y.stride(0), k,
        BM=bm, BN=DENSE_BLOCK[0], BK=DENSE_BLOCK[1], BIAS=bias is not None, DENSE=True,
        **accuracy(x), **options(warps, stages),
    )  # fmt: skip
    return finish(y, x), finish(half, x)
