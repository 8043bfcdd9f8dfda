r"""Structured magnitude: the Euclidean norm of everything that goes with a unit.

.. math:: s_g = \Bigl(\sum_{w \in g} w^2\Bigr)^{1/2}

over the slices of all parameters coupled to the unit: its producer's rows, its read-outs' columns,
its bias and its norm. Li, Kadav, Durdanovic, Samet and Graf (2017), "Pruning filters for efficient
ConvNets", take filters alone; Fang, Ma, Song, Mi and Wang (2023), "DepGraph", section 3.3, take
the whole group, as here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.structure import Axis


def group_norms(parameters: Mapping[str, Tensor], axis: Axis) -> Tensor:
    """Norms ``[G]`` of the units of an axis, float64.

    Args:
        parameters: Parameter name to values. Members that are buffers are not counted.
        axis: The axis.

    Raises:
        InputError: None of the axis's members is among the parameters.
    """
    total = torch.zeros(axis.size, dtype=torch.float64)
    found = False
    for member in axis.members:
        if member.parameter not in parameters:
            continue
        found = True
        values = parameters[member.parameter].detach().double().cpu()
        lines = values.movedim(member.dim, 0).reshape(values.shape[member.dim], -1).square().sum(1)
        total += lines[member.index].flatten(1).sum(1)
    if not found:
        raise InputError(f"axis {axis.name!r} has no slice in the parameters that were given")
    return total.sqrt()
