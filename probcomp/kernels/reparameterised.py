"""Local reparameterisation under a block mask: sampled outputs of a Bayesian linear layer."""

from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError, unknown
from probcomp.kernels import gather
from probcomp.kernels.blocks import BlockWeight
from probcomp.kernels.dispatch import triton_installed
from probcomp.kernels.library import block_backward_input, block_backward_weight

FEW_ROWS = 128
"""Rows up to which a fused kernel should beat two products: a prediction, not measured on a GPU."""


def reparameterised_linear(
    x: Tensor, packed: BlockWeight, variance: Tensor, *, seed: int, backend: str = "auto"
) -> Tensor:
    r"""y = X mu^T + b + sqrt(X^2 (sigma^2)^T) eps, over live blocks only.

    The distribution of the outputs of a linear layer with independent normal weights, one draw for
    each row (Kingma, Salimans and Welling 2015, eq. 6: their m, v are our two products).

    Args:
        x: ``[..., K]``.
        packed: Blocks whose values are the means mu.
        variance: sigma^2, ``[nnz, BN, BK]`` like ``packed.val``, non-negative; zero for dead
            entries of live blocks.
        seed: Of the noise; the same seed and shapes give the same noise on the same backend.
        backend: ``"auto"``, ``"torch"``, or ``"triton"`` (noise drawn in the kernel, on a GPU).

    Returns:
        ``[..., N]``. Gradients reach x, the means, the variances and the bias.

    Raises:
        InputError: Shapes do not fit.
    """
    if backend not in ("auto", "torch", "triton"):
        raise unknown("reparameterised backend", backend, ("auto", "torch", "triton"))
    if type(packed) is not BlockWeight or variance.shape != packed.val.shape:
        raise InputError(
            f"variance has shape {list(variance.shape)}, expected that of a BlockWeight's val"
        )
    if x.shape[-1] != packed.shape[1]:
        raise InputError(f"x has shape {list(x.shape)}, expected [..., {packed.shape[1]}]")
    _check_bias(packed.bias, packed.shape[0])
    triton = backend == "triton" or (backend == "auto" and x.is_cuda and triton_installed())
    flat = x.reshape(-1, x.shape[-1])
    y = _Reparameterised.apply(
        flat, packed.val, variance, packed.bias, packed, seed, "triton" if triton else "gather"
    )
    return y.view(*x.shape[:-1], packed.shape[0])


def noisy_linear(
    x: Tensor, mean: Tensor, variance: Tensor, bias: Tensor | None, *, seed: int,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """As `reparameterised_linear`, for whole matrices ``[N, K]`` of means and variances.

    On a GPU one kernel reads each weight once and draws the noise itself (up to `FEW_ROWS` rows,
    where memory is the limit); elsewhere it is two products. It is no registered operator:
    `torch.compile` breaks the graph here, and a model is exported without its noise.

    Raises:
        InputError: Shapes do not fit.
    """
    if backend not in ("auto", "torch", "triton"):
        raise unknown("reparameterised backend", backend, ("auto", "torch", "triton"))
    if mean.dim() != 2 or variance.shape != mean.shape or x.shape[-1] != mean.shape[1]:
        raise InputError(
            f"x {list(x.shape)}, means {list(mean.shape)} and variances {list(variance.shape)} "
            "must be [..., K], [N, K] and [N, K]"
        )
    _check_bias(bias, mean.shape[0])
    flat = x.reshape(-1, x.shape[-1])
    triton = backend == "triton" or (backend == "auto" and fused_noise(x))
    y = _Noisy.apply(flat, mean, variance, bias, seed, triton)
    return y.view(*x.shape[:-1], mean.shape[0])


def _check_bias(bias: Tensor | None, n: int) -> None:
    """The kernel reads ``n`` values of a bias, whatever its size."""
    if bias is not None and tuple(bias.shape) != (n,):
        raise InputError(f"bias has shape {list(bias.shape)}, expected [{n}]")


def fused_noise(x: Tensor) -> bool:
    """Whether `noisy_linear` runs its kernel for this input."""
    rows = x.numel() // max(x.shape[-1], 1)
    plain = x.is_cuda and x.dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
    return plain and 0 < rows <= FEW_ROWS and triton_installed()


class _Noisy(torch.autograd.Function):
    """`noisy_linear`; the gradients are products of whole matrices."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, bias: Tensor | None, seed: int,
        triton: bool,
    ) -> Tensor:  # fmt: skip
        if triton:
            from probcomp.kernels.gpu.reparameterised import launch_dense

            y, half = launch_dense(x, mean, variance, bias, seed)
        else:
            spread = x.square() @ variance.t()
            y, half = add_noise(x @ mean.t(), spread, bias, seed)
        ctx.save_for_backward(x, mean, variance, half)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, mean, variance, half = ctx.saved_tensors
        spread = grad * half
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


class _Reparameterised(torch.autograd.Function):
    """Saves eps / (2 sd), from which the gradient of the variance follows without new noise."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, bias: Tensor | None,
        packed: BlockWeight, seed: int, backend: str,
    ) -> Tensor:  # fmt: skip
        n = packed.shape[0]
        if backend == "triton":
            from probcomp.kernels.gpu.reparameterised import launch

            y, half = launch(x, mean, variance, packed.index, bias, n, seed)
        else:
            y, half = sample(x, mean, variance, packed, bias, seed)
        ctx.save_for_backward(x, mean, variance, half)
        ctx.packed, ctx.backend = packed, backend
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, mean, variance, half = ctx.saved_tensors
        packed: BlockWeight = ctx.packed
        spread = grad * half  # gradient of the variance of the outputs
        dx = dmean = dvar = dbias = None
        if ctx.needs_input_grad[0]:
            how = (list(packed.index), None, x.shape[1], ctx.backend, False)
            dx = block_backward_input(grad, mean, *how)
            dx = dx + 2 * x * block_backward_input(spread, variance, *how)
        live = (list(packed.index), packed.bitmap, *packed.block, ctx.backend)
        if ctx.needs_input_grad[1]:
            dmean = block_backward_weight(grad, x, *live)
        if ctx.needs_input_grad[2]:
            dvar = block_backward_weight(spread, x.square(), *live)
        if ctx.needs_input_grad[3]:
            dbias = grad.sum(0)
        return dx, dmean, dvar, dbias, None, None, None


def sample(
    x: Tensor, mean: Tensor, variance: Tensor, packed: BlockWeight, bias: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """The sampled output and eps / (2 sd) in plain PyTorch; noise from a generator of the seed."""
    n = packed.shape[0]
    y = gather.block_forward(x, mean, packed.index, n)
    spread = gather.block_forward(x.square(), variance, packed.index, n)
    return add_noise(y, spread, bias, seed)


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
