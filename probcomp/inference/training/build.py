"""The factor graph of a model: what has supports, which gates act on it, what it costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.gates import REMOVED, Gated, Graph, Matrix
from probcomp.inference.training.layers import LOG_SIGMA, bayesian_layers, is_gpt_linear
from probcomp.inference.training.ordering import position_order, spectral_order, unit_features
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.units import Slot, UnitGroup, slots

Cost = Mapping[str, Tensor | float]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weight is [in, out, ...]."""


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers but the log sigmas."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tuple(t.shape) for name, t in tensors if not name.endswith(LOG_SIGMA)}


def weight_names(model: nn.Module) -> list[str]:
    """Names of the parameters that have supports: the weights of the Bayesian layers."""
    return [f"{name}.weight" if name else "weight" for name, _ in bayesian_layers(model)]


def build_graph(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    prior: Any,
    cost: Cost | None,
    config: TurboConfig,
) -> Graph:
    """The factor graph of a model with Bayesian layers.

    Args:
        model: Has Bayesian layers already.
        groups: Units with gates.
        prior: Prior over the supports of each matrix, or parameter name to prior.
        cost: Parameter name to the cost of each of its entries (a number, or a tensor that
            broadcasts to it). ``None`` counts every parameter as 1. A parameter that is neither
            masked nor gated is a constant.
        config: Settings.

    Raises:
        InputError: A cost or a group does not fit the model, or a prior fixes how many weights
            stay.
    """
    shapes = tensor_shapes(model)
    parameters = {n for n, _ in model.named_parameters()}
    found = slots(groups, shapes)
    masked = set(weight_names(model))
    like = model.get_parameter(min(masked))  # messages are of the weights' type, where they lie
    costs = _costs(cost, shapes, parameters, like)
    matrices: dict[str, Matrix] = {}
    gated: dict[str, Gated] = {}
    constant = 0.0
    for name, shape in shapes.items():
        gates = tuple(Slot(s.group, s.dim, s.index.to(like.device)) for s in found[name])
        here = costs.get(name)
        if name in masked:
            if any(slot.dim > 1 for slot in gates):
                raise InputError(f"{name}: units along a kernel dimension cannot be gated")
            sites = Sites(shape, "shared" if len(shape) == 2 else config.kernels)
            whole = like.new_zeros(shape) if here is None else here.expand(shape)
            own = prior.get(name) if isinstance(prior, Mapping) else prior
            if own is None:
                raise InputError(f"the prior has no entry for {name}; it has {sorted(prior)}")
            if getattr(own, "fixes_count", False):
                raise InputError(
                    f"{own!r} fixes how many weights of {name} stay, which units that leave and "
                    "the price of a budget change: masks would not keep the pattern. Prune by it "
                    "after training: method turbo-vbi-post-weights"
                )
            layer = model.get_submodule(name.rpartition(".")[0])
            swapped = isinstance(layer, _TRANSPOSED) or is_gpt_linear(layer)
            matrices[name] = Matrix(
                sites,
                own,
                sites.slots(gates),
                sites.collect(whole),
                swapped,
                sites.collect(whole**config.cost_power),
            )
        elif gates and name in parameters:
            own_cost = (like.new_zeros(()) if here is None else here).expand(shape).clone()
            gated[name] = Gated(gates, own_cost, own_cost**config.cost_power)
        elif here is not None:
            constant += float(here.expand(shape).double().sum())
    fields = {g.name: like.new_full((g.size,), config.gate_field) for g in groups}
    return Graph(matrices, gated, fields, constant, config.damping)


def _costs(
    cost: Cost | None, shapes: Mapping[str, tuple[int, ...]], parameters: set[str], like: Tensor
) -> dict[str, Tensor]:
    if cost is None:
        return {name: like.new_ones(()) for name in shapes if name in parameters}
    costs = {}
    for name, value in cost.items():
        if name not in shapes:
            raise InputError(f"cost names {name!r}, which the model does not have")
        tensor = torch.as_tensor(value).to(like)
        try:
            tensor.expand(shapes[name])
        except RuntimeError as error:
            raise InputError(
                f"the cost of {name} has shape {tuple(tensor.shape)}, which does not broadcast "
                f"to {shapes[name]}"
            ) from error
        if not bool(torch.isfinite(tensor).all()) or float(tensor.min()) < 0:
            raise InputError(f"the cost of {name} must be finite and not negative")
        costs[name] = tensor
    if not any(float(t.max()) > 0 for t in costs.values() if t.numel()):
        raise InputError("the cost is zero everywhere: no budget can act on it")
    return costs


def check_target(graph: Graph, target: float | None) -> float | None:
    """The target cost in the cost's own unit.

    Raises:
        InputError: The fraction is not in (0, 1], or less than what cannot be removed.
    """
    if target is None:
        return None
    if not (math.isfinite(target) and 0 < target <= 1):
        raise InputError(
            f"target is the share of the cost that may remain, in (0, 1]; got {target}"
        )
    floor = graph.constant / graph.total
    if target <= floor:
        raise InputError(
            f"target {target:g} is out of reach: {floor:.3g} of the cost is in parameters that "
            "are neither masked nor gated by units"
        )
    return target * graph.total


def reorder(graph: Graph, probability: Mapping[str, Tensor]) -> tuple[Graph, dict[str, Tensor]]:
    """Put similar units side by side in the matrices that the priors see.

    Args:
        graph: The factor graph.
        probability: Parameter name to support probabilities of its sites.

    Returns:
        The graph with new orders, and each group's order: unit numbers in their new places.
    """
    sizes = {name: len(values) for name, values in graph.fields.items()}
    gates = {name: matrix.slots for name, matrix in graph.matrices.items()}
    features = unit_features(sizes, probability, gates)
    orders, ranks = {}, {}
    for name, table in features.items():
        alive = graph.fields[name] > REMOVED
        orders[name] = spectral_order(table, alive & (table.sum(1) > 0.5))
        ranks[name] = torch.argsort(orders[name])
    return with_orders(graph, orders), orders


def with_orders(graph: Graph, orders: Mapping[str, Tensor]) -> Graph:
    """The graph whose matrices are seen in the given orders of their units."""
    matrices = {}
    for name, matrix in graph.matrices.items():
        places: dict[int, Tensor | None] = {}
        for slot in matrix.slots:
            if slot.group in orders:
                side = slot.dim - matrix.sites.rank
                places[side] = position_order(slot, torch.argsort(orders[slot.group]))
        sites = replace(matrix.sites, rows=places.get(-2), columns=places.get(-1))
        matrices[name] = replace(matrix, sites=sites)
    return replace(graph, matrices=matrices)
