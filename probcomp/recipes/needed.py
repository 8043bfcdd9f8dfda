"""Units that no kept weight reads any more: they can go without changing the function."""

from collections.abc import Mapping

import torch
from torch import Tensor

from probcomp.structure import Axis

INPUTS = 1
"""Dimension of the inputs of linear and convolution weights, where nothing else is said."""


def needed(
    axis: Axis, masks: Mapping[str, Tensor], input_dims: Mapping[str, int] | None = None
) -> Tensor:
    """Units of an axis that some kept weight reads, boolean [size]; at least ``min_keep``.

    Units of axes that no masked weight reads all stay.

    Args:
        axis: The axis.
        masks: Parameter name to what stays of it, boolean, in the parameter's shape.
        input_dims: Parameter name to the dimension of its inputs, for weights that are not as
            linear layers and convolutions have them; masks of other parameters are passed over.
    """
    read = torch.zeros(axis.size, dtype=torch.bool)
    readers = 0
    for member in axis.members:
        mask = masks.get(member.parameter)
        dims = INPUTS if input_dims is None else input_dims.get(member.parameter)
        if mask is None or member.dim != dims:
            continue
        readers += 1
        lines = mask.movedim(member.dim, 0).flatten(1).any(1)
        read |= lines[member.index].flatten(1).any(1)
    if not readers:
        return torch.ones_like(read)
    least = min(axis.min_keep, axis.size)
    spare = torch.nonzero(~read).flatten()[: max(0, least - int(read.sum()))]
    read[spare] = True
    return read
