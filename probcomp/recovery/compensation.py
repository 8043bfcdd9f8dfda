r"""Compensation by a constant: the mean of what is removed goes into a bias.

.. math:: b \leftarrow b + \sum_{j \notin K} \mu_j W_{:j}

(An et al. 2024, FLAP, section 3.3). Least squares goes further and lets the inputs that stay stand
in for the removed ones: `probcomp.inference.quadratic.refit`, or `probcomp.recovery.ridge` with a
penalty that is cross-validated.
"""

import torch
from torch import Tensor, nn

from probcomp.errors import InputError


def mean_bias(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """What the removed columns give out on average, ``[do]``.

    Args:
        weight: The dense read-out as a matrix ``[do, di]``.
        mean: Mean input of each column, ``[di]``.
        kept: True where a column stays, boolean ``[di]``.

    Raises:
        InputError: Shapes or types that do not fit.
    """
    if weight.dim() != 2 or kept.dtype != torch.bool:
        raise InputError(
            f"expected a matrix and a boolean mask, got {tuple(weight.shape)} and {kept.dtype}"
        )
    if mean.shape != weight.shape[1:] or kept.shape != weight.shape[1:]:
        raise InputError(
            f"a read-out {tuple(weight.shape)} has {weight.shape[1]} inputs, but the means are of "
            f"{tuple(mean.shape)} and the mask of {tuple(kept.shape)}"
        )
    return weight.to(mean) @ mean.masked_fill(kept, 0.0)


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
