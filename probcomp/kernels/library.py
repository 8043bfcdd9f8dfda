"""The block operators as PyTorch sees them: custom ops with fake, gradient and autocast.

They take flat tensors, so `torch.compile` and `torch.export` see one opaque node and need no sparse
layout. Which backend runs is decided inside, at run time, so a dynamic batch size works.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast
from torch.nn import functional

from probcomp.kernels import cpp, gather
from probcomp.kernels.activations import activation_function
from probcomp.kernels.blocks import BlockIndex, as_blocks, from_blocks
from probcomp.kernels.derived import derived
from probcomp.kernels.dispatch import Problem, choose, on_triton, triton_fits
from probcomp.kernels.fast_dense import dense_product
from probcomp.kernels.panels import panel_forward
from probcomp.kernels.ready import Run


def block_values(val: Tensor, scale: Tensor | None) -> Tensor:
    """The floating values of blocks."""
    return val if scale is None else val.to(scale.dtype) * scale.unsqueeze(-1)


def _expanded(
    val: Tensor, scale: Tensor | None, at: BlockIndex, shape: tuple[int, int], keep: bool
) -> Tensor:
    """The dense weight; kept beside ``val`` when the weight does not change."""

    def build() -> Tensor:
        with torch.no_grad():
            return from_blocks(block_values(val, scale), at.erow, at.col, shape)

    return derived(val, ("dense", shape), build) if keep else build()


def block_backend(
    x: Tensor, val: Tensor, shape: tuple[int, int], kind: str, frozen: bool, ask: str
) -> str:
    """The backend of a product of x ``[M, K]`` with blocks ``val``."""
    block = (val.shape[1], val.shape[2])
    density = val.numel() / (shape[0] * shape[1])
    return choose(
        Problem(kind, x.device, x.dtype, shape, block, density, x.shape[0], frozen), ask
    ).backend


def block_product(
    x: Tensor, val: Tensor, index: Sequence[Tensor], bitmap: Tensor | None, scale: Tensor | None,
    bias: Tensor | None, n: int, activation: str, backend: str, frozen: bool,
) -> Tensor:  # fmt: skip
    """act(x W^T + b) with x ``[M, K]`` and W in live blocks; ``[M, n]``.

    The arguments after ``x`` are the fields of `probcomp.kernels.BlockWeight` (``scale``: of
    `Int8Weight`), ``index`` those of its `BlockIndex`. ``frozen`` promises that ``val`` does not
    change, so copies of it may be kept. ``probcomp::block_linear`` is this function as PyTorch's
    dispatcher sees it.
    """
    at = BlockIndex(*index)
    kind = "blocks" if scale is None else "int8"
    shape = (n, x.shape[1])
    if x.shape[0] == 0:
        return x.new_empty(0, n)
    name = block_backend(x, val, shape, kind, frozen, backend)
    if name == "triton":
        from probcomp.kernels.gpu.launch import block_linear as launch

        return launch(x, val, at, scale, bias, n, activation)
    if name == "dense" and not frozen:
        y = functional.linear(x, _expanded(val, scale, at, shape, False), bias)
        return activation_function(activation)(y)
    return block_run(name, val, at, scale, bias, shape, x.shape[0], activation)(x)


def block_run(
    backend: str, val: Tensor, at: BlockIndex, scale: Tensor | None, bias: Tensor | None,
    shape: tuple[int, int], rows: int, activation: str,
) -> Run:  # fmt: skip
    """`block_product` on a backend that PyTorch runs, as a function of x ``[M, K]``, M > 0.

    All but ``gather`` are for a frozen weight. ``rows`` is the largest M that it will see often.
    """
    if backend == "cpp":
        layer = cpp.block_layer(val, at, shape[0])
        whole = cpp.chain([layer], [bias], [activation])
        return lambda x: cpp.run_chain(x, whole)
    if backend == "dense":
        dtype = val.dtype if scale is None else scale.dtype

        def weight() -> Tensor:
            return _expanded(val, scale, at, shape, False)

        # One object for as long as the scale is not written to.
        stamp = None if scale is None else derived(scale, "stamp", object)
        return dense_product(val, weight, shape, rows, dtype, bias, activation, stamp)
    act, n = activation_function(activation), shape[0]

    def run(x: Tensor) -> Tensor:
        if backend == "panels":
            y = panel_forward(x, val, at, n)
        else:
            y = gather.block_forward(x, block_values(val, scale), at, n)
        return act(y if bias is None else y.add_(bias))

    return run


block_linear = custom_op("probcomp::block_linear", block_product, mutates_args=())


@block_linear.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    n = args[5]
    return x.new_empty(x.shape[0], n)


@custom_op("probcomp::block_backward_input", mutates_args=())
def block_backward_input(
    grad: Tensor, val: Tensor, index: Sequence[Tensor], scale: Tensor | None, k: int, backend: str,
    frozen: bool,
) -> Tensor:  # fmt: skip
    """dx = dy W over the live blocks, walked by column; ``[M, k]``."""
    at = BlockIndex(*index)
    if grad.shape[0] == 0:
        return grad.new_empty(0, k)
    shape = (grad.shape[1], k)
    kind = "blocks" if scale is None else "int8"
    # Training has no kept copies: the product that reads the blocks as they are, or dense.
    name = block_backend(grad, val, shape, kind, False, backend if backend == "triton" else "auto")
    if name == "triton" and scale is None:
        from probcomp.kernels.gpu.launch import block_backward_input as launch

        return launch(grad, val, at, k)
    if name == "dense":
        return grad @ _expanded(val, scale, at, shape, frozen)
    return gather.block_backward_input(grad, block_values(val, scale), at, k)


@block_backward_input.register_fake
def _(grad: Tensor, *args: Any) -> Tensor:
    return grad.new_empty(grad.shape[0], args[3])


@custom_op("probcomp::block_backward_weight", mutates_args=())
def block_backward_weight(
    grad: Tensor, x: Tensor, index: Sequence[Tensor], bitmap: Tensor | None, bn: int, bk: int,
    backend: str,
) -> Tensor:  # fmt: skip
    """dval = dy^T x on the live blocks (and live entries) only; ``[nnz, bn, bk]``."""
    at = BlockIndex(*index)
    if grad.shape[0] == 0:
        return grad.new_zeros(at.erow.shape[0], bn, bk)
    if backend == "triton" or (backend == "auto" and on_triton(grad) and triton_fits((bn, bk))):
        from probcomp.kernels.gpu.launch import block_backward_weight as launch

        out = launch(grad, x, at, (bn, bk))
    elif backend == "auto" and _whole_gradient(grad, x, at, (bn, bk)):
        every = as_blocks(grad.t() @ x, (bn, bk)).reshape(-1, bn, bk)
        out = every.index_select(0, at.erow * (at.ccol.shape[0] - 1) + at.col)
    else:
        out = gather.block_backward_weight(grad, x, at, (bn, bk))
    return out if bitmap is None else out * bitmap


def _whole_gradient(grad: Tensor, x: Tensor, at: BlockIndex, block: tuple[int, int]) -> bool:
    """Whether all of dW and then its live blocks is faster than its live blocks alone."""
    shape, nnz = (grad.shape[1], x.shape[1]), at.erow.shape[0]
    density = nnz * block[0] * block[1] / (shape[0] * shape[1])
    problem = Problem("blocks", x.device, x.dtype, shape, block, density, x.shape[0], False)
    return choose(problem).backend == "dense"


@block_backward_weight.register_fake
def _(grad: Tensor, x: Tensor, index: Sequence[Tensor], *args: Any) -> Tensor:
    return grad.new_empty(index[BlockIndex._fields.index("erow")].shape[0], *args[1:3])


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, val, index, bitmap, scale, bias, _, activation, *how = inputs
    if activation != "none":
        raise NotImplementedError(
            "block_linear has no gradient with an activation; masked_linear applies it outside"
        )
    ctx.save_for_backward(x, val, bitmap, scale, *index)
    ctx.backend, ctx.frozen = how
    ctx.biased = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, val, bitmap, scale, *index = ctx.saved_tensors
    dx = dval = dbias = None
    if ctx.needs_input_grad[0]:
        dx = block_backward_input(grad, val, index, scale, x.shape[1], ctx.backend, ctx.frozen)
    if ctx.needs_input_grad[1]:
        # A backend of the forward that has no weight gradient leaves the choice to the device.
        backend = ctx.backend if ctx.backend in ("triton", "gather") else "auto"
        dval = block_backward_weight(grad, x, index, bitmap, *val.shape[1:], backend)
    if ctx.biased and ctx.needs_input_grad[5]:
        dbias = grad.sum(0)
    return dx, dval, [None] * len(index), None, None, dbias, None, None, None, None


block_linear.register_autograd(_backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    register_autocast("probcomp::block_linear", _device, torch.bfloat16)
