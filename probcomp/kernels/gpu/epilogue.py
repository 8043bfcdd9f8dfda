"""Activations inside a kernel, by code (`probcomp.kernels.activations`)."""

import triton
import triton.language as tl


@triton.jit
def activate(v, ACT: tl.constexpr):
    if ACT == 1:
        v = tl.where(v > 0, v, 0.0 * v)  # keeps NaN, as torch does
    elif ACT == 2:
        v = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACT == 3:
        inner = 0.7978845608028654 * (v + 0.044715 * v * v * v)
        v = v * tl.sigmoid(2.0 * inner)  # 0.5 (1 + tanh(z)) = sigmoid(2 z)
    elif ACT == 4:
        v = v * tl.sigmoid(v)
    return v
