"""Trace a model: export it, type its dimensions, and list what can be removed."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from probcomp.structure.axes import Structure
from probcomp.structure.branches import find_branches
from probcomp.structure.cost import unit_costs
from probcomp.structure.export import Inputs, export_program
from probcomp.structure.rules import Typing
from probcomp.structure.units import find_axes


def trace(
    model: torch.nn.Module,
    example_inputs: Inputs,
    *,
    outputs: Sequence[str | int] | None = None,
    dynamic: bool = True,
    group_heads: bool = True,
) -> Structure:
    """Find the axes of ``model``: which units can be removed and which slices go with them.

    The model is exported (evaluation mode, key-value cache off; both are restored) and every tensor
    dimension gets a symbolic size that operators make equal, split or concatenate. Nothing is known
    about architectures or names, the work does not depend on the width, and a model built under
    ``torch.device("meta")`` is traced without its memory.

    Args:
        model: on any device. Its parameters are not changed.
        example_inputs: a tuple of positional or a dict of keyword tensors. Two samples of a short
            length are best: sizes unlike any width of the model keep dimensions apart.
        outputs: entries of the result to keep (keys, fields or positions). Output dimensions cannot
            be cut, so leaving out an auxiliary output may free an axis (the encoder state that an
            encoder-decoder model returns, for instance).
        dynamic: keep batch and sequence sizes symbolic, so that a cut graph runs on others. A model
            that fixes them is traced at the example sizes (``Structure.dynamic`` says so).
        group_heads: with grouped queries, units are whole key-value groups (kind ``kv_group``) and
            query positions inside all groups (``query_in_group``). False makes each query head a
            unit of its own (kind ``head``): any heads can go, the key and value projections stay,
            and only the graph (`cut_graph`) can be cut so.

    Raises:
        TraceError: when the inputs do not fit or the model cannot be exported.
    """
    program, layout, symbolic = export_program(model, example_inputs, outputs, dynamic)
    typing = Typing(program, group_heads).run()
    parameters = {program.aliases[name] for name, _ in model.named_parameters()}
    axes = find_axes(typing, parameters)
    branches = find_branches(typing, parameters)
    structure = Structure(
        axes=(*axes, *(branch.axis for branch in branches)),
        typing=typing,
        branches={branch.axis.name: branch for branch in branches},
        parameters={name: tuple(p.shape) for name, p in model.named_parameters() if p is not None},
        layout=layout,
        dynamic=symbolic,
        inputs=example_inputs,
    )
    costs = unit_costs(structure)
    return replace(structure, axes=tuple(replace(a, cost=costs[a.name]) for a in structure.axes))
