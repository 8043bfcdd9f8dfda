"""The block-sparse product in JAX, with a gradient for live blocks only.

On any device by XLA; on a GPU, where `jax_triton` is installed, by the Triton kernels that PyTorch
runs. Imports JAX; nothing else of the package imports this module.
"""

import importlib.util
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from probcomp.errors import InputError, unknown
from probcomp.kernels.blocks import BlockWeight

BACKENDS = ("auto", "xla", "triton")


class JaxIndex(NamedTuple):
    """Where the live blocks are: `probcomp.kernels.blocks.BlockIndex` as the kernels walk it."""

    erow: Any  # int32 [nnz]
    col: Any  # int32 [nnz]
    row: Any  # int32 [R]: block rows, longest first
    lo: Any  # int32 [R]: blocks of row[i] are lo[i] .. hi[i]
    hi: Any  # int32 [R]
    ccol: Any  # int32 [C + 1]
    trow: Any  # int32 [nnz]
    perm: Any  # int32 [nnz]


class JaxBlocks(NamedTuple):
    """The arrays of a `BlockWeight` that the product reads, and its static sizes."""

    val: Any  # [nnz, BN, BK]
    places: JaxIndex
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

    order = packed.row_order.long()
    index = (
        packed.erow, packed.col, packed.row_order, packed.crow[order], packed.crow[order + 1],
        packed.ccol, packed.trow, packed.perm,
    )  # fmt: skip
    return JaxBlocks(
        array(packed.val), JaxIndex(*map(array, index)), array(packed.bias), packed.shape
    )


def masked_linear(x: Any, packed: JaxBlocks, *, backend: str = "auto") -> Any:
    """``x W^T + b`` for x ``[..., K]``; differentiable in x, ``val`` and ``bias``.

    Args:
        x: In the dtype of the blocks for the Triton kernels.
        packed: From `to_jax`.
        backend: ``"xla"``, ``"triton"`` (needs a GPU and `jax_triton`), or ``"auto"``: the Triton
            kernels where they run these blocks.

    Raises:
        InputError: The last dimension of ``x`` is not K, or the backend cannot run here.
    """
    if x.shape[-1] != packed.shape[1]:
        raise InputError(f"x has shape {list(x.shape)}, expected [..., {packed.shape[1]}]")
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    how = (packed.shape, _backend(flat, packed.val, backend))
    y = _product(how, flat, packed.val, packed.places)
    y = y if packed.bias is None else y + packed.bias
    return y.reshape(*x.shape[:-1], packed.shape[0])


def _backend(x: Any, val: Any, asked: str) -> str:
    if asked not in BACKENDS:
        raise unknown("JAX backend", asked, BACKENDS)
    if asked == "xla":
        return asked
    sides = val.shape[1:]
    powers = all(side >= 16 and side & (side - 1) == 0 for side in sides)
    problems = {
        "jax_triton is not installed": importlib.util.find_spec("jax_triton") is None,
        f"JAX runs on {jax.default_backend()}, not on a GPU": jax.default_backend() != "gpu",
        f"sides must be powers of two from 16 on, got {sides[0]}x{sides[1]}": not powers,
        f"x is {x.dtype}, the blocks are {val.dtype}": x.dtype != val.dtype,
        "there is nothing to multiply": 0 in x.shape or 0 in val.shape,
    }
    found = [text for text, holds in problems.items() if holds]
    if not found:
        return "triton"
    if asked == "triton":
        raise InputError("backend='triton' cannot run: " + "; ".join(found))
    return "xla"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(how: tuple[tuple[int, int], str], x: Any, val: Any, index: JaxIndex) -> Any:
    shape, backend = how
    if backend == "triton":
        from probcomp.kernels.gpu import jax_launch

        return jax_launch.forward(x, val, index, shape[0])
    rows = -(-shape[0] // val.shape[1])
    parts = jnp.einsum("emk,enk->emn", _gather(x, index.col, val.shape[2]), val)
    return _scatter(parts, index.erow, rows, shape[0])


def _gather(x: Any, index: Any, width: int) -> Any:
    """Blocks of ``width`` columns of ``[M, K]``, by index: ``[nnz, M, width]``."""
    count = -(-x.shape[1] // width)
    padded = jnp.pad(x, ((0, 0), (0, count * width - x.shape[1])))
    return padded.reshape(x.shape[0], count, width).transpose(1, 0, 2)[index]


def _scatter(parts: Any, index: Any, count: int, size: int) -> Any:
    """Add ``[nnz, M, width]`` into its blocks of columns: ``[M, size]``."""
    total = jax.ops.segment_sum(parts, index, num_segments=count)
    return total.transpose(1, 0, 2).reshape(parts.shape[1], count * parts.shape[2])[:, :size]


def _forward(how: Any, x: Any, val: Any, index: JaxIndex) -> tuple[Any, Any]:
    return _product(how, x, val, index), (x, val, index)


def _backward(how: Any, saved: Any, grad: Any) -> tuple[Any, Any, None]:
    shape, backend = how
    x, val, index = saved
    if backend == "triton":
        from probcomp.kernels.gpu import jax_launch

        dx = jax_launch.backward_input(grad, val, index, shape[1])
        return dx, jax_launch.backward_weight(grad, x, val, index), None
    pieces = _gather(grad, index.erow, val.shape[1])  # [nnz, M, BN]
    columns = -(-shape[1] // val.shape[2])
    dx = _scatter(jnp.einsum("emn,enk->emk", pieces, val), index.col, columns, shape[1])
    return dx, jnp.einsum("emn,emk->enk", pieces, _gather(x, index.col, val.shape[2])), None


_product.defvjp(_forward, _backward)
