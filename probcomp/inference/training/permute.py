"""Put the units of a model in a new order, in all their slices at once."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from probcomp.inference.posterior import Posterior, UnitPosterior, WeightPosterior
from probcomp.inference.training.build import reorder
from probcomp.inference.training.gates import Graph
from probcomp.inference.training.units import Slot, UnitGroup

PERMUTABLE = ("neuron", "channel")
"""Kinds of axes whose units are interchangeable. Others may carry a meaning in their place, such
as the frequency of a rotary dimension; a group without a kind is taken at its word."""

SAME_LOSS = 1e-4
"""Relative change of the loss below which a permutation of units counts as exact (float32)."""


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


def permuted_posterior(
    posterior: Posterior, slots: Mapping[str, Sequence[Slot]], orders: Mapping[str, Tensor]
) -> Posterior:
    """The posterior of the permuted model."""
    weights = {
        n: WeightPosterior(**{k: permuted(v, slots[n], orders) for k, v in vars(w).items()})
        for n, w in posterior.weights.items()
    }
    units = {
        n: UnitPosterior(u.log_odds[orders[n]], u.probability[orders[n]]) if n in orders else u
        for n, u in posterior.units.items()
    }
    return Posterior(weights, units, posterior.meta)


def cluster(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
    units: Sequence[UnitGroup],
    slots: Mapping[str, Sequence[Slot]],
    loss: Callable[[nn.Module], Tensor],
) -> dict[str, Tensor]:
    """Permute a model in place so that its masks are clustered, kept units first.

    Args:
        model: Changed in place; nothing happens if its loss would change.
        graph: Its factor graph.
        masks: Weight name to booleans of its shape.
        keep: Group name to booleans [size].
        units: The groups; those that are exact and whose units are interchangeable are ordered.
        slots: Name of each parameter and buffer to the gates on it.
        loss: Loss of the model on some batch.

    Returns:
        Group name to unit numbers in their new places.
    """
    chosen = {n: (graph.matrices[n].sites.collect(m.float()) > 0).float() for n, m in masks.items()}
    _, orders = reorder(graph, chosen)
    orders = {
        g.name: _kept_first(orders[g.name], keep[g.name])
        for g in units
        if g.name in orders
        and getattr(g, "exact", False)
        and getattr(g, "kind", PERMUTABLE[0]) in PERMUTABLE
    }
    if not orders:
        return {}
    with torch.no_grad():
        before = float(loss(model))
        permute_model(model, slots, orders)
        after = float(loss(model))
    if abs(after - before) <= SAME_LOSS * max(abs(before), 1e-3):
        return orders
    back = {name: torch.argsort(order) for name, order in orders.items()}
    permute_model(model, slots, back)
    return {}


def _kept_first(order: Tensor, keep: Tensor) -> Tensor:
    return torch.cat([order[keep[order]], order[~keep[order]]])
