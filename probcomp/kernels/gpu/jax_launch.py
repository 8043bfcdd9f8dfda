"""The block kernels launched from JAX, by `jax_triton`. The kernels are those that PyTorch runs.

A launch passes inputs and sizes in the kernel's order and names its outputs by shape; JAX-Triton
appends them, which is why they stand last among a kernel's run-time arguments.
"""

from typing import Any

import jax
import jax.numpy as jnp
import triton
import triton.language as tl

from probcomp.kernels.gpu.block_backward import (
    block_backward_input,
    block_backward_weight,
    input_tile,
    weight_split,
)
from probcomp.kernels.gpu.block_forward import block_forward, tile
from probcomp.kernels.gpu.runtime import INTERPRETED


def _accuracy(x: Any) -> dict[str, Any]:
    """As `probcomp.kernels.gpu.runtime.accuracy`, for an array of JAX."""
    asked = getattr(jax.config, "jax_default_matmul_precision", None)
    exact = x.dtype != jnp.float32 or asked == "highest"
    return {
        "ACC": tl.float64 if x.dtype == jnp.float64 else tl.float32,
        "UPCAST": INTERPRETED and x.dtype == jnp.bfloat16,
        "PREC": "ieee" if exact or INTERPRETED else "tf32",
    }


def _call(
    kernel: Any, inputs: tuple[Any, ...], outputs: list[Any], grid: tuple[int, int],
    warps: int, stages: int, **constants: Any,
) -> Any:  # fmt: skip
    import jax_triton

    return jax_triton.triton_call(
        *inputs, kernel=kernel, out_shape=outputs, grid=grid, num_warps=warps, num_stages=stages,
        **constants,
    )  # fmt: skip


def _widened(x: Any, width: int) -> Any:
    return jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def forward(x: Any, val: Any, index: Any, n: int) -> Any:
    """x W^T ``[M, n]``; ``index`` is a `probcomp.kernels.jax_blocks.JaxIndex`."""
    _, bn, bk = val.shape
    x = _widened(x, (index.ccol.shape[0] - 1) * bk)
    m, rows = x.shape[0], index.row.shape[0]
    bm, warps, stages = tile(m, (bn, bk))
    outputs = [jax.ShapeDtypeStruct((m, n), x.dtype), jax.ShapeDtypeStruct((1,), x.dtype)]
    # Neither a scale, a bias, nor parts of a cut row: those places are not read or written.
    inputs = (x, val, index.lo, index.hi, index.row, index.col, val, val, m, n, x.shape[1], n)
    y, _ = _call(
        block_forward, inputs, outputs, (triton.cdiv(m, bm), rows), warps, stages,
        BM=bm, BN=bn, BK=bk, ACT=0, BIAS=False, SCALE=False, SPLIT=False, **_accuracy(x),
    )  # fmt: skip
    return y


def backward_input(grad: Any, val: Any, index: Any, k: int) -> Any:
    """dx = dy W ``[M, k]``."""
    _, bn, bk = val.shape
    g = _widened(grad, index.row.shape[0] * bn)
    m, bm = g.shape[0], input_tile(g.shape[0], bk)
    inputs = (g, val, index.ccol, index.trow, index.perm, m, k, g.shape[1], k)
    (dx,) = _call(
        block_backward_input, inputs, [jax.ShapeDtypeStruct((m, k), grad.dtype)],
        (triton.cdiv(m, bm), index.ccol.shape[0] - 1), 4, 5, BM=bm, BN=bn, BK=bk, **_accuracy(g),
    )  # fmt: skip
    return dx


def backward_weight(grad: Any, x: Any, val: Any, index: Any) -> Any:
    """dval = dy^T x on the live blocks, ``[nnz, BN, BK]``."""
    nnz, bn, bk = val.shape
    g = _widened(grad, index.row.shape[0] * bn)
    x = _widened(x, (index.ccol.shape[0] - 1) * bk)
    m = g.shape[0]
    bm, parts, step = weight_split(m, nnz, (bn, bk))
    inputs = (g, x, index.erow, index.col, m, step, nnz, g.shape[1], x.shape[1])
    held = val.dtype if parts == 1 else jnp.promote_types(val.dtype, jnp.float32)
    (out,) = _call(
        block_backward_weight, inputs, [jax.ShapeDtypeStruct((parts, nnz, bn, bk), held)],
        (nnz, parts), 4, 3, BM=bm, BN=bn, BK=bk, **_accuracy(g),
    )  # fmt: skip
    return out.sum(0).astype(val.dtype)
