"""The hidden layer of a gated MLP in one pass: act(x Wg^T) (x Wu^T), over a list of live neurons.

One load of x serves both products, and neither of them is written. With a list of neurons the rows
of both weights are read through it: the kernel for masks that change from call to call. A static
mask should be compacted instead.
"""

import triton
import triton.language as tl
from torch import Tensor

from probcomp.kernels.activations import ACTIVATION_CODES
from probcomp.kernels.gpu.epilogue import activate
from probcomp.kernels.gpu.runtime import (
    accuracy,
    check_device,
    finish,
    options,
    output,
    rows_of,
)


@triton.jit
def gated_hidden(
    x_ptr, gate_ptr, up_ptr, neuron_ptr, gate_bias_ptr, up_bias_ptr, y_ptr,
    M, H, K, stride_x, stride_w, stride_y,
    BM: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr, ACT: tl.constexpr, GATHER: tl.constexpr,
    GATE_BIAS: tl.constexpr, UP_BIAS: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
    PREC: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    o_k = tl.arange(0, BK)
    m_m = o_m[:, None] < M
    m_h = o_h < H
    if GATHER:
        row = tl.load(neuron_ptr + o_h, mask=m_h, other=0).to(tl.int64)
    else:
        row = o_h.to(tl.int64)
    p_x = x_ptr + o_m[:, None].to(tl.int64) * stride_x + o_k[None, :]
    offset = row[None, :] * stride_w + o_k[:, None]
    gate = tl.zeros([BM, BH], dtype=ACC)
    up = tl.zeros([BM, BH], dtype=ACC)
    for k0 in range(0, K, BK):
        m_k = k0 + o_k < K
        b_x = tl.load(p_x + k0, mask=m_m & m_k[None, :], other=0.0)  # [BM, BK]
        m_w = m_h[None, :] & m_k[:, None]
        b_g = tl.load(gate_ptr + offset + k0, mask=m_w, other=0.0)  # [BK, BH]
        b_u = tl.load(up_ptr + offset + k0, mask=m_w, other=0.0)  # [BK, BH]
        if UPCAST:
            b_x = b_x.to(tl.float32)
            b_g = b_g.to(tl.float32)
            b_u = b_u.to(tl.float32)
        gate = tl.dot(b_x, b_g, gate, input_precision=PREC, out_dtype=ACC)
        up = tl.dot(b_x, b_u, up, input_precision=PREC, out_dtype=ACC)
    if GATE_BIAS:
        gate += tl.load(gate_bias_ptr + row, mask=m_h, other=0.0)[None, :].to(ACC)
    if UP_BIAS:
        up += tl.load(up_bias_ptr + row, mask=m_h, other=0.0)[None, :].to(ACC)
    y = activate(gate, ACT) * up
    p_y = y_ptr + o_m[:, None].to(tl.int64) * stride_y + o_h[None, :]
    tl.store(p_y, y.to(y_ptr.dtype.element_ty), mask=m_m & m_h[None, :])


def launch(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    neurons: Tensor | None,
    activation: str,
) -> Tensor:
    """``[M, h]`` for the ``h`` neurons of the list, or all of them."""
    check_device(x)
    x = rows_of(x, x.shape[1])
    gate, up = gate.contiguous(), up.contiguous()
    m, k = x.shape
    h = gate.shape[0] if neurons is None else neurons.shape[0]
    y = output(x, m, h)
    if h == 0:
        return finish(y, x)
    bm = 16 if m <= 16 else 64 if m < 1024 else 128
    gated_hidden[(triton.cdiv(m, bm), triton.cdiv(h, 64))](
        x, gate, up, y if neurons is None else neurons,
        y if gate_bias is None else gate_bias, y if up_bias is None else up_bias, y,
        m, h, k, x.stride(0), gate.stride(0), y.stride(0),
        BM=bm, BH=64, BK=64, ACT=ACTIVATION_CODES[activation], GATHER=neurons is not None,
        GATE_BIAS=gate_bias is not None, UP_BIAS=up_bias is not None,
        **accuracy(x), **options(8 if bm == 128 else 4, 3),
    )  # fmt: skip
    return finish(y, x)
