"""The layers whose weights may be masked, and an order of units in which neighbours are alike."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence.collect import evaluating
from probcomp.evidence.matrices import Matrix, matrix_of
from probcomp.inference.training.ordering import spectral_order
from probcomp.recipes.counting import macs_on
from probcomp.recipes.job import Job
from probcomp.structure import Axis

SAME = 1e-4
"""Largest difference of outputs, over their scale, under an order of units that changes nothing."""
ORDERED = ("neuron", "channel", "head", "kv_group", "residual")
"""Kinds of axes whose units have no order of their own."""


@dataclass(frozen=True)
class Layers:
    """What may be masked.

    Attributes:
        matrices: Parameter name to how it is read, in the order of the model's modules.
        costs: Parameter name to what one weight costs in the unit of the budget.
        notes: What stays whole, and why.
    """

    matrices: Mapping[str, Matrix]
    costs: Mapping[str, float]
    notes: tuple[str, ...]


def layers_of(job: Job) -> Layers:
    """Linear layers and convolutions that are run as modules and whose weights are theirs alone."""
    owners: dict[int, int] = {}
    for _, parameter in job.model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    matrices: dict[str, Matrix] = {}
    notes = []
    told: set[int] = set()
    run = _run(job)
    for path, module in job.model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() < 2:
            continue
        name = f"{path}.weight" if path else "weight"
        matrix = matrix_of(module, path, job.model)
        if isinstance(matrix, str):
            if not isinstance(module, nn.modules.conv._ConvNd):
                continue
            notes.append(f"The weights of {path} all stay: {matrix}.")
        elif owners[id(weight)] > 1:
            notes.append(f"The weights of {path} all stay: they are those of another module too.")
        elif path not in run:
            why = "its weights are read by another module" if name in job.uses else "nothing ran it"
            notes.append(f"The weights of {path} all stay: {why}.")
        else:
            matrices[name] = matrix
        told.add(id(weight))
    notes += [
        f"The weights of {name} all stay: no linear layer or convolution holds them."
        for name, parameter in job.model.named_parameters()
        if name in job.uses and parameter.dim() > 1 and id(parameter) not in told
    ]
    in_macs = job.budget is not None and job.budget.unit == "macs"
    costs = {name: float(job.uses.get(name, 0.0)) if in_macs else 1.0 for name in matrices}
    return Layers(matrices, costs, tuple(notes))


def _run(job: Job) -> set[str]:
    """Paths of the modules that are run as modules on the first samples."""
    found: set[str] = set()
    handles = []

    def hook(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.add(path)

    for path, module in job.model.named_modules():
        handles.append(module.register_forward_hook(hook(path)))
    try:
        macs_on(job.model, job.task, job.train)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def ordered(
    job: Job, layers: Layers, batch: Any, outputs: Callable[[nn.Module], Tensor]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the model with similar units side by side, and the order of each axis.

    Units are compared by ``|w| sqrt(mean x^2)`` of all their weights, as
    `probcomp.inference.quadratic.reorder` does within one layer. An order that changes the outputs
    (of the embedding itself, for one) is taken back.

    Args:
        job: The job.
        layers: The layers whose weights say how units are alike.
        batch: What inputs are measured on.
        outputs: Runs a model on that batch.
    """
    model = copy.deepcopy(job.model)
    orders: dict[str, Tensor] = {}
    with evaluating(model):
        energy = _energies(model, layers.matrices, batch, job.task.run)
        dense = outputs(model)
        scale = float(dense.abs().max()) or 1.0
        for axis in job.structure.axes:
            if axis.kind not in ORDERED or axis.blocked or axis.size < 3:
                continue
            features = _features(axis, model, layers.matrices, energy)
            if features is None:
                continue
            order = spectral_order(features, features.sum(1) > 0)
            back = torch.argsort(order)
            _permute(model, axis, order)
            if float((outputs(model) - dense).abs().max()) > SAME * scale:
                _permute(model, axis, back)
                continue
            orders[axis.name] = order
            energy = _energies(model, layers.matrices, batch, job.task.run)
    return model, orders


def _energies(
    model: nn.Module, matrices: Mapping[str, Matrix], batch: Any, run: Callable[..., Any]
) -> dict[str, Tensor]:
    """Root mean square of each layer's inputs on one batch."""
    found: dict[str, Tensor] = {}
    handles = []

    def hook(name: str, matrix: Matrix) -> Callable[..., None]:
        def called(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = matrix.rows(module, inputs[0]).flatten(0, 1)
            found[name] = rows.float().square().mean(0).sqrt()

        return called

    for name, matrix in matrices.items():
        module = model.get_submodule(matrix.module)
        handles.append(module.register_forward_pre_hook(hook(name, matrix)))
    try:
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _features(
    axis: Axis, model: nn.Module, matrices: Mapping[str, Matrix], energy: Mapping[str, Tensor]
) -> Tensor | None:
    parameters = dict(model.named_parameters())
    parts = []
    for member in axis.members:
        matrix = matrices.get(member.parameter)
        if matrix is None or member.parameter not in energy:
            continue
        weight = parameters[member.parameter].detach()
        value = matrix.back(matrix.of(weight).float().abs() * energy[member.parameter], weight)
        lines = value.movedim(member.dim, 0).flatten(1)
        table = lines[member.index].flatten(1)
        parts.append(table / table.norm().clamp_min(1e-12))
    return torch.cat(parts, 1) if parts else None


def _permute(model: nn.Module, axis: Axis, order: Tensor) -> None:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers())
    for member in axis.members:
        tensor = tensors.get(member.parameter)
        if tensor is None:
            continue
        old = tensor.index_select(member.dim, member.index[order].flatten())
        tensor.index_copy_(member.dim, member.index.flatten(), old)
