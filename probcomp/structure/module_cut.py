"""Cutting a real module: parameters sliced, the attributes that size tensors set, the rest as is.

No table says which attribute goes with which width. A watched forward pass shows the expression
behind every size (`probcomp.structure.provenance`), the typed program says what that size has to
be (`probcomp.structure.pairing`), a small search finds the attributes
(`probcomp.structure.equations`), and the result counts only when it computes the same as the cut
graph on two input sizes (`probcomp.structure.gate`).
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probcomp.errors import SurgeryError
from probcomp.structure import gate
from probcomp.structure.axes import Structure
from probcomp.structure.equations import Solution, resizes, solve
from probcomp.structure.export import Inputs
from probcomp.structure.masks import MASKS_ATTRIBUTE, MaskSet
from probcomp.structure.pairing import WATCHED, equations
from probcomp.structure.provenance import Call, Slot, Watch, assign, instrument
from probcomp.structure.terms import Term, Var, removed
from probcomp.structure.units import holder_dims

log = logging.getLogger(__name__)

Gone = Mapping[Var, Tensor]


@dataclass(frozen=True)
class ModuleCut:
    """A cut module and the attribute edits it took."""

    model: nn.Module
    edits: Mapping[Slot, int]


def cut_module(model: nn.Module, structure: Structure, gone: Gone) -> ModuleCut:
    """Remove units from a copy of ``model``, without checking the outcome.

    Args:
        model: the traced model; not changed.
        gone: size variable of an axis -> boolean [size], true where the unit goes.

    Raises:
        SurgeryError: when no attribute values give the new sizes.
    """
    solution = edits_for(model, structure, gone)
    if solution.conflicts:
        raise SurgeryError(solution.conflicts[0])
    cut = sliced_copy(model, structure, gone)
    assign(cut, solution.edits)
    _describe_widths(cut)
    return ModuleCut(cut, solution.edits)


# Attributes --------------------------------------------------------------------------------------


def edits_for(model: nn.Module, structure: Structure, gone: Gone) -> Solution:
    """Attribute values that give every operator the size it needs after the cut."""
    probe = shared_copy(model)
    old = instrument(probe)
    kept = {var: int((~mask).sum()) for var, mask in gone.items()}
    calls: list[Call] = []
    for inputs in gate.two_sizes(structure, model)[:1]:
        calls += watch(probe, inputs)
    return solve(equations(structure, calls, kept), old, resizes(structure, kept))


def watch(model: nn.Module, inputs: Inputs) -> list[Call]:
    """Run ``model`` once and log every operator that takes sizes."""
    mode = Watch(WATCHED)
    handles = mode.follow(model)
    try:
        with mode:
            gate.run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return mode.calls


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the tree of modules that shares the tensors."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        if held := vars(module).get(MASKS_ATTRIBUTE):
            memo[id(held)] = held
    return copy.deepcopy(model, memo)


# Tensors -----------------------------------------------------------------------------------------


def keep_positions(terms: tuple[Term, ...], gone: Gone) -> list[Tensor | None]:
    """For each dimension, the positions that stay; None where nothing goes."""
    kept: list[Tensor | None] = []
    for term in terms:
        mask = removed(term, gone)
        kept.append((~mask).nonzero()[:, 0] if bool(mask.any()) else None)
    return kept


def select(tensor: Tensor, kept: list[Tensor | None]) -> Tensor:
    """The slices of ``tensor`` that stay, as a new tensor."""
    out = tensor.detach()
    for dim, positions in enumerate(kept):
        if positions is not None:
            out = out.index_select(dim, positions.to(out.device))
    return out.clone() if out.data_ptr() == tensor.data_ptr() else out.contiguous()


def sliced_copy(model: nn.Module, structure: Structure, gone: Gone) -> nn.Module:
    """A copy of ``model`` with sliced parameters and buffers; ties and masks are kept."""
    program = structure.typing.program
    kept = {
        name: keep_positions(holder_dims(structure.typing, name), gone) for name in program.holders
    }
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        new = select(parameter, kept.get(name, []))
        memo[id(parameter)] = nn.Parameter(new, requires_grad=parameter.requires_grad)
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = select(buffer, kept.get(name, []))
    for name, constant in program.constants.items():
        if any(p is not None for p in kept[name]):
            for owner in _owners(model, constant):
                memo[id(owner)] = select(owner, kept[name])
    for prefix, module in model.named_modules():
        held = vars(module).get(MASKS_ATTRIBUTE)
        if held is not None:
            memo[id(held)] = MaskSet.of(
                {
                    name: (memo[id(p)], select(m, kept.get(f"{prefix}.{name}".lstrip("."), [])))
                    for name, (p, m) in held.entries.items()
                }
            )
    return copy.deepcopy(model, memo)


def _owners(model: nn.Module, constant: Tensor) -> list[Tensor]:
    """Plain tensor attributes that became a constant of the exported program."""
    return [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor)
        and value.shape == constant.shape
        and (value is constant or value.data_ptr() == constant.data_ptr())
    ]


def _describe_widths(model: nn.Module) -> None:
    """Bring the attributes that only describe a layer in line with its weight."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = map(int, weight.shape)
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            module.in_channels = int(weight.shape[0])
            module.out_channels = int(weight.shape[1]) * module.groups
        elif isinstance(module, nn.modules.conv._ConvNd):
            module.out_channels = int(weight.shape[0])
            module.in_channels = int(weight.shape[1]) * module.groups
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_features = int(weight.shape[0])
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = int(weight.shape[0])
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = map(int, weight.shape)
