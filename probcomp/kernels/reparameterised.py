"""Local reparameterisation under a block mask: sampled outputs of a Bayesian linear layer."""

import torch
from torch import Tensor

from probcomp.errors import InputError, unknown
from probcomp.kernels.blocks import BlockWeight
from probcomp.kernels.dispatch import on_triton, triton_fits
from probcomp.kernels.flops import note_counter
from probcomp.kernels.library_noise import noisy_blocks, noisy_matrix

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
        InputError: Shapes do not fit, or the Triton kernel does not take these blocks.
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
    note_counter()
    fits = triton_fits(packed.block)
    if backend == "triton" and not fits:
        raise InputError(f"the Triton kernel takes sides of 16 to 128, got {packed.block}")
    triton = backend == "triton" or (backend == "auto" and on_triton(x) and fits)
    flat = x.reshape(-1, x.shape[-1])
    how = (packed.shape[0], seed, "triton" if triton else "gather")
    y, _ = noisy_blocks(
        flat, packed.val, variance, list(packed.index), packed.bitmap, packed.bias, *how
    )
    return y.view(*x.shape[:-1], packed.shape[0])


def noisy_linear(
    x: Tensor, mean: Tensor, variance: Tensor, bias: Tensor | None, *, seed: int,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """As `reparameterised_linear`, for whole matrices ``[N, K]`` of means and variances.

    On a GPU one kernel reads each weight once and draws the noise itself (up to `FEW_ROWS` rows,
    where memory is the limit); elsewhere it is two products. Under autocast both draw in float32.

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
    note_counter()
    flat = x.reshape(-1, x.shape[-1])
    triton = backend == "triton" or (backend == "auto" and fused_noise(x))
    y, _ = noisy_matrix(flat, mean, variance, bias, seed, triton)
    return y.view(*x.shape[:-1], mean.shape[0])


def _check_bias(bias: Tensor | None, n: int) -> None:
    """The kernel reads ``n`` values of a bias, whatever its size."""
    if bias is not None and tuple(bias.shape) != (n,):
        raise InputError(f"bias has shape {list(bias.shape)}, expected [{n}]")


def fused_noise(x: Tensor) -> bool:
    """Whether `noisy_linear` runs its kernel for this input."""
    rows = x.numel() // max(x.shape[-1], 1)
    plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cuda")
    return plain and 0 < rows <= FEW_ROWS and on_triton(x)
