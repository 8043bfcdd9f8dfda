"""Removing units for real: a smaller module where possible, else a smaller graph."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import gate
from probcomp.structure.axes import Keep, Structure, round_keep
from probcomp.structure.graph_cut import cut_graph
from probcomp.structure.layers import Plan, cut_layers, plans
from probcomp.structure.masks import apply_masks, masks_of
from probcomp.structure.module_cut import Gone, cut_module, keep_positions, select
from probcomp.structure.provenance import Slot

log = logging.getLogger(__name__)

Surgery = Literal["auto", "module", "graph"]


@dataclass(frozen=True)
class Shrunk:
    """A smaller model, and how it was made.

    Attributes:
        model: the result.
        surgery: ``module`` (the same classes, narrower) or ``graph`` (a graph of operators).
        edits: attributes that had to change.
        reason: why no module could be made, when ``surgery`` is ``graph``.
    """

    model: nn.Module
    surgery: str
    edits: Mapping[Slot, int] = field(default_factory=dict)
    reason: str | None = None


def shrink(
    model: nn.Module,
    structure: Structure,
    keep: Keep,
    *,
    surgery: Surgery = "auto",
    round_to: int = 1,
) -> nn.Module:
    """Remove units and layers from a copy of ``model``.

    The result equals the dense model with those units silenced (``structure.silence``), to float
    tolerance, on every axis with ``exact`` true and for experts; on other axes it is the model that
    never had them. With ``surgery="auto"`` the result is a module of the same classes when that
    module provably computes the same as the cut graph, on two input sizes; otherwise it is the
    graph, and a warning in the log says why (`shrink_report` returns the reason).

    Args:
        model: the traced model, in its present state; not changed.
        structure: from `trace` of this model.
        keep: axis name -> boolean [size], true where the unit stays. Axes not named stay whole.
        surgery: ``module`` raises instead of falling back to the graph; ``graph`` makes the graph
            right away.
        round_to: revive removed units until each kept count is a multiple of this.

    Raises:
        InputError: for unknown axis names, masks of the wrong shape or type.
        SurgeryError: when a blocked axis would be cut, too few units would stay, or no module can
            be made and ``surgery="module"``.
    """
    return shrink_report(model, structure, keep, surgery=surgery, round_to=round_to).model


def shrink_report(
    model: nn.Module,
    structure: Structure,
    keep: Keep,
    *,
    surgery: Surgery = "auto",
    round_to: int = 1,
) -> Shrunk:
    """`shrink`, with how the result was made."""
    if surgery not in ("auto", "module", "graph"):
        raise InputError(f"surgery is {surgery!r}, expected 'auto', 'module' or 'graph'")
    if round_to != 1:
        keep = round_keep(structure, keep, round_to)
    kept, layers = structure.resolve(keep)
    if not kept and not layers:
        return Shrunk(copy.deepcopy(model), "module")
    gone = {var: ~mask for var, mask in kept.items()}
    graph: nn.Module = cut_graph(structure, model, keep)
    if surgery == "graph":
        return Shrunk(_masked(graph, model, structure, gone), "graph", reason="asked for")
    try:
        return _module(model, structure, gone, layers, graph)
    except SurgeryError as error:
        if surgery == "module":
            raise SurgeryError(f"no real module has these widths: {error}") from error
        log.warning("cut as a graph, since no real module has these widths: %s", error)
        reason = str(error)
    return Shrunk(_masked(graph, model, structure, gone), "graph", reason=reason)


def _module(
    model: nn.Module, structure: Structure, gone: Gone, layers: list[str], graph: nn.Module
) -> Shrunk:
    """A module that passes the gate; with layers, the most thorough removal that does."""
    inputs = gate.two_sizes(structure, model)
    reference = [gate.run(graph, i) for i in inputs]
    reason = ""
    for plan in plans(structure, model, layers) if layers else [Plan()]:
        cut = cut_module(model, structure, gone)
        try:
            cut_layers(cut.model, plan)
            failure = _compare(cut.model, inputs, reference)
            if failure is None and layers:
                failure = gate.cache_differs(cut.model, model, inputs[0])
        except SurgeryError as error:
            failure = str(error)
        if failure is None:
            return Shrunk(cut.model, "module", cut.edits)
        reason = reason or failure
    raise SurgeryError(reason)


def _compare(
    model: nn.Module, inputs: list[gate.Inputs], reference: list[list[Tensor]]
) -> str | None:
    for given, expected in zip(inputs, reference):
        try:
            found = gate.run(model, given)
        except Exception as error:  # user code may fail in any way on sizes it did not expect
            line = str(error).strip().splitlines()[:1]
            return f"the cut module does not run ({type(error).__name__}: {''.join(line)})"
        reason = gate.difference(found, expected)
        if reason is not None:
            return f"{reason} from the cut graph's"
    return None


def _masked(graph: nn.Module, model: nn.Module, structure: Structure, gone: Gone) -> nn.Module:
    """Carry the weight masks of ``model`` over to its cut graph."""
    present = dict(graph.named_parameters())
    masks: dict[str, torch.Tensor] = {}
    for name, mask in masks_of(model).items():
        canonical = structure.program.aliases.get(name, name)
        if canonical in present:
            kept = keep_positions(structure.holder_terms[canonical], gone)
            masks[canonical] = select(mask, kept)
    return apply_masks(graph, masks) if masks else graph
