r"""Compensation without tuning: a constant, or a refit of what stays.

A removed input whose mean is not zero shifts the output; its mean can be put into the bias,

.. math:: b \leftarrow b + \sum_{j \notin K} \mu_j W_{:j}

(An et al. 2024, FLAP, section 3.3). Least squares goes further and lets the inputs that stay stand
in for the removed ones as far as they are correlated,

.. math:: W_K \leftarrow W H_{:K} (H_{KK} + \epsilon I)^{-1}

which is where all steps of Optimal Brain Surgeon end (`probcomp.inference.quadratic.refit`).
"""

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.quadratic import Quadratic, refit


def mean_bias(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """What the removed columns give out on average, ``[do]``.

    Args:
        weight: The dense read-out as a matrix ``[do, di]``.
        mean: Mean input of each column, ``[di]``.
        kept: True where a column stays, boolean ``[di]``.

    Raises:
        InputError: Shapes or types that do not fit.
    """
    _check(weight, mean, kept)
    return weight.to(mean) @ mean.masked_fill(kept, 0.0)


def compensate(weight: Tensor, gram: Tensor, kept: Tensor, *, damping: float) -> Tensor:
    """The read-out refitted to its dense outputs with the kept columns alone, ``[do, di]``.

    Args:
        weight: The dense read-out as a matrix ``[do, di]``.
        gram: ``sum_t x_t x_t^T`` of its inputs, ``[di, di]``.
        kept: True where a column stays, boolean ``[di]``.
        damping: Added to the diagonal of the Gram matrix, over its mean.

    Raises:
        InputError: Shapes or types that do not fit.
    """
    _check(weight, gram.diagonal(), kept)
    return refit(Quadratic(weight.to(gram), gram, damping), kept)


def add_bias(module: nn.Module, value: Tensor) -> None:
    """Add ``value`` ``[do]`` to a module's bias, in place; it gets one if it has none.

    Raises:
        InputError: A module without the attribute ``bias``, or a value of another length.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", False)
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
        raise InputError(f"a {type(module).__name__} has no place for a bias")
    if bias is None:
        new = value.to(weight).clone()
        module.bias = nn.Parameter(new, requires_grad=weight.requires_grad)
        return
    if bias.shape != value.shape:
        raise InputError(
            f"the bias has the shape {tuple(bias.shape)}, the value {tuple(value.shape)}"
        )
    with torch.no_grad():
        bias += value.to(bias)


def _check(weight: Tensor, inputs: Tensor, kept: Tensor) -> None:
    if weight.dim() != 2 or kept.dtype != torch.bool:
        raise InputError(
            f"expected a matrix and a boolean mask, got {tuple(weight.shape)} and {kept.dtype}"
        )
    if inputs.shape != weight.shape[1:] or kept.shape != weight.shape[1:]:
        raise InputError(
            f"a read-out {tuple(weight.shape)} has {weight.shape[1]} inputs, but the statistics "
            f"are of {tuple(inputs.shape)} and the mask of {tuple(kept.shape)}"
        )
