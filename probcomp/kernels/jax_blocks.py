"""The block-sparse product in JAX, for XLA on any device, with a gradient for live blocks only.

Imports JAX; nothing else of the package imports this module.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from probcomp.errors import InputError
from probcomp.kernels.blocks import BlockWeight


class JaxBlocks(NamedTuple):
    """The arrays of a `BlockWeight` that the product reads, and its static sizes."""

    val: Any  # [nnz, BN, BK]
    erow: Any  # int32 [nnz]
    col: Any  # int32 [nnz]
    bias: Any  # [N] or None
    shape: tuple[int, int]


def to_jax(packed: BlockWeight) -> JaxBlocks:
    """Copy a packed weight to JAX arrays.

    Raises:
        InputError: Not a `BlockWeight`, or a bfloat16 one (NumPy has no such type: pack in
            float32 and convert in JAX).
    """
    if type(packed) is not BlockWeight:
        raise InputError(f"to_jax takes a BlockWeight, got {type(packed).__name__}")
    if str(packed.val.dtype) == "torch.bfloat16":
        raise InputError("to_jax takes float32 or float64 blocks; convert to bfloat16 in JAX")

    def array(tensor: Any) -> Any:
        return None if tensor is None else jnp.asarray(tensor.detach().cpu().numpy())

    val, erow, col, bias = map(array, (packed.val, packed.erow, packed.col, packed.bias))
    return JaxBlocks(val, erow, col, bias, packed.shape)


def masked_linear(x: Any, packed: JaxBlocks) -> Any:
    """``x W^T + b`` for x ``[..., K]``; differentiable in x, ``val`` and ``bias``.

    Raises:
        InputError: The last dimension of ``x`` is not K.
    """
    if x.shape[-1] != packed.shape[1]:
        raise InputError(f"x has shape {list(x.shape)}, expected [..., {packed.shape[1]}]")
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = _product(packed.shape, flat, packed.val, packed.erow, packed.col)
    y = y if packed.bias is None else y + packed.bias
    return y.reshape(*x.shape[:-1], packed.shape[0])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(shape: tuple[int, int], x: Any, val: Any, erow: Any, col: Any) -> Any:
    rows = -(-shape[0] // val.shape[1])
    parts = jnp.einsum("emk,enk->emn", _gather(x, col, val.shape[2]), val)
    return _scatter(parts, erow, rows, shape[0])


def _gather(x: Any, index: Any, width: int) -> Any:
    """Blocks of ``width`` columns of ``[M, K]``, by index: ``[nnz, M, width]``."""
    count = -(-x.shape[1] // width)
    padded = jnp.pad(x, ((0, 0), (0, count * width - x.shape[1])))
    return padded.reshape(x.shape[0], count, width).transpose(1, 0, 2)[index]


def _scatter(parts: Any, index: Any, count: int, size: int) -> Any:
    """Add ``[nnz, M, width]`` into its blocks of columns: ``[M, size]``."""
    total = jax.ops.segment_sum(parts, index, num_segments=count)
    return total.transpose(1, 0, 2).reshape(parts.shape[1], count * parts.shape[2])[:, :size]


def _forward(shape: tuple[int, int], x: Any, val: Any, erow: Any, col: Any) -> tuple[Any, Any]:
    return _product(shape, x, val, erow, col), (x, val, erow, col)


def _backward(shape: tuple[int, int], saved: Any, grad: Any) -> tuple[Any, Any, None, None]:
    x, val, erow, col = saved
    pieces = _gather(grad, erow, val.shape[1])  # [nnz, M, BN]
    columns = -(-shape[1] // val.shape[2])
    dx = _scatter(jnp.einsum("emn,enk->emk", pieces, val), col, columns, shape[1])
    dval = jnp.einsum("emn,emk->enk", pieces, _gather(x, col, val.shape[2]))
    return dx, dval, None, None


_product.defvjp(_forward, _backward)
