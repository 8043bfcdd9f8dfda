"""Units that no kept weight reads any more: they can go without changing the function."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from probcomp.evidence.readouts import produces
from probcomp.structure import Axis


def needed(axis: Axis, masks: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Units of an axis that some weight reads, boolean [size]; at least ``min_keep``.

    A weight without a mask reads the units at which it is not zero. What neither is a mask's nor
    known to give units out (a tensor that a module of another kind owns) is taken as reading them;
    biases, norms and buffers only change units. Units of axes that no weight reads all stay.

    Args:
        axis: The axis.
        masks: Parameter name to what stays of it, boolean, in the parameter's shape.
        model: The dense model.
    """
    read = torch.zeros(axis.size, dtype=torch.bool)
    values = dict(model.named_parameters(remove_duplicate=False))
    readers = 0
    for member in axis.members:
        value = values.get(member.parameter)
        if value is None or value.dim() < 2:
            continue
        if all(_gives_out(m, own, member.dim) for m, own in _owners(model, value)):
            continue
        readers += 1
        mask = masks.get(member.parameter)
        stays = value.detach() != 0 if mask is None else mask
        lines = stays.cpu().movedim(member.dim, 0).flatten(1).any(1)
        read |= lines[member.index].flatten(1).any(1)
    if not readers:
        return torch.ones_like(read)
    least = min(axis.min_keep, axis.size)
    spare = torch.nonzero(~read).flatten()[: max(0, least - int(read.sum()))]
    read[spare] = True
    return read


def _owners(model: nn.Module, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    """Every module that has the parameter, and its name there: a shared one may read and give."""
    for module in model.modules():
        for own, value in module.named_parameters(recurse=False, remove_duplicate=False):
            if value is parameter:
                yield module, own


def _gives_out(module: nn.Module, own: str, dim: int) -> bool:
    """Whether units along a dimension of a module's parameter are what the module gives out."""
    if isinstance(module, nn.MultiheadAttention):  # its inner heads, from stacked projections
        return dim == 0
    return own == "weight" and produces(module, dim)
