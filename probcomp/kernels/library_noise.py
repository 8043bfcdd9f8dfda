"""Sampled linear layers as custom ops: outputs and their noise, with fake, gradient and autocast.

Both return y and eps / (2 sd), from which the gradient of a variance follows without new noise.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast

from probcomp.kernels import gather
from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.library import block_backward_input, block_backward_weight


def add_noise(
    mean: Tensor, variance: Tensor, bias: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean, bias and noise of a variance, ``[M, N]``; and eps / (2 sd)."""
    generator = torch.Generator(device=mean.device).manual_seed(seed)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    deviation = variance.clamp(min=0.0).sqrt()
    half = torch.where(variance > 0, noise / (2 * deviation), torch.zeros_like(noise))
    y = mean + deviation * noise
    return (y if bias is None else y + bias), half


@custom_op("probcomp::noisy_linear", mutates_args=())
def noisy_matrix(
    x: Tensor, mean: Tensor, variance: Tensor, bias: Tensor | None, seed: int, triton: bool
) -> tuple[Tensor, Tensor]:
    """`probcomp.kernels.noisy_linear` for x ``[M, K]``; both results are ``[M, N]``."""
    if triton:
        from probcomp.kernels.gpu.reparameterised import launch_dense

        return launch_dense(x, mean, variance, bias, seed)
    return add_noise(x @ mean.t(), x.square() @ variance.t(), bias, seed)


@custom_op("probcomp::noisy_block_linear", mutates_args=())
def noisy_blocks(
    x: Tensor, mean: Tensor, variance: Tensor, index: Sequence[Tensor], bitmap: Tensor | None,
    bias: Tensor | None, n: int, seed: int, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`probcomp.kernels.reparameterised_linear` for x ``[M, K]``; both results are ``[M, n]``."""
    at = BlockIndex(*index)
    if backend == "triton":
        from probcomp.kernels.gpu.reparameterised import launch

        return launch(x, mean, variance, at, bias, n, seed)
    y = gather.block_forward(x, mean, at, n)
    return add_noise(y, gather.block_forward(x.square(), variance, at, n), bias, seed)


@noisy_matrix.register_fake
def _(x: Tensor, mean: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], mean.shape[0]), x.new_empty(x.shape[0], mean.shape[0])


@noisy_blocks.register_fake
def _(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], args[5]), x.new_empty(x.shape[0], args[5])


def _keep_matrix(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, mean, variance, *_ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, mean, variance, output[1])


def _back_matrix(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, mean, variance, half = ctx.saved_tensors
    spread = grad * half  # gradient of the variance of the outputs
    dx = dmean = dvar = dbias = None
    if ctx.needs_input_grad[0]:
        dx = grad @ mean + 2 * x * (spread @ variance)
    if ctx.needs_input_grad[1]:
        dmean = grad.t() @ x
    if ctx.needs_input_grad[2]:
        dvar = spread.t() @ x.square()
    if ctx.needs_input_grad[3]:
        dbias = grad.sum(0)
    return dx, dmean, dvar, dbias, None, None


def _keep_blocks(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, mean, variance, index, bitmap, *_, backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, mean, variance, output[1], bitmap, *index)
    ctx.backend = backend


def _back_blocks(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    x, mean, variance, half, bitmap, *index = ctx.saved_tensors
    spread = grad * half
    dx = dmean = dvar = dbias = None
    if ctx.needs_input_grad[0]:
        how = (index, None, x.shape[1], ctx.backend, False)
        dx = block_backward_input(grad, mean, *how)
        dx = dx + 2 * x * block_backward_input(spread, variance, *how)
    live = (index, bitmap, *mean.shape[1:], ctx.backend)
    if ctx.needs_input_grad[1]:
        dmean = block_backward_weight(grad, x, *live)
    if ctx.needs_input_grad[2]:
        dvar = block_backward_weight(spread, x.square(), *live)
    if ctx.needs_input_grad[5]:
        dbias = grad.sum(0)
    return dx, dmean, dvar, [None] * len(index), None, dbias, None, None, None


noisy_matrix.register_autograd(_back_matrix, setup_context=_keep_matrix)
noisy_blocks.register_autograd(_back_blocks, setup_context=_keep_blocks)
for _device in ("cpu", "cuda"):  # a variance and its noise are not sums to be rounded
    register_autocast("probcomp::noisy_linear", _device, torch.float32)
    register_autocast("probcomp::noisy_block_linear", _device, torch.float32)
