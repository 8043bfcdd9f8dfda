"""Put the units of a model in a new order, in all their slices at once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from probcomp.inference.training.units import Slot

PERMUTABLE = ("neuron", "channel")
"""Kinds of axes whose units are interchangeable. Others may carry a meaning in their place, such
as the frequency of a rotary dimension; a group without a kind is taken at its word."""


def positions(slot: Slot, order: Tensor) -> Tensor:
    """For each position along the gated dimension, the position that moves there.

    A unit's positions move as a block to those of the unit whose place it takes, first to first.
    """
    place = torch.arange(len(slot.index), device=order.device)
    source = place.clone()
    ranked = torch.argsort(slot.index, stable=True)
    units, counts = torch.unique_consecutive(slot.index[ranked], return_counts=True)
    per_unit = dict(zip(units.tolist(), ranked.split(counts.tolist()), strict=True))
    for new, old in enumerate(order.tolist()):
        if new in per_unit and old in per_unit:
            source[per_unit[new]] = per_unit[old]
    return source


def permuted(tensor: Tensor, slots: Sequence[Slot], orders: Mapping[str, Tensor]) -> Tensor:
    """The tensor with the units along its gated dimensions in their new order."""
    for slot in slots:
        if slot.group in orders:
            tensor = tensor.index_select(slot.dim, positions(slot, orders[slot.group]))
    return tensor


@torch.no_grad()
def permute_model(
    model: nn.Module, slots: Mapping[str, Sequence[Slot]], orders: Mapping[str, Tensor]
) -> None:
    """Permute parameters and buffers in place.

    Args:
        model: Changed in place.
        slots: Name of each parameter and buffer to the gates on it.
        orders: Group name to unit numbers in their new places.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if slots.get(name):
            tensor.copy_(permuted(tensor, slots[name], orders))
