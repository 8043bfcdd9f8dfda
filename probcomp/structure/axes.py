"""Axes: the families of units that can be removed, and what is known of a traced model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from probcomp.errors import unknown
from probcomp.structure.ir import Program
from probcomp.structure.terms import Term, Var

KINDS = (
    "neuron",
    "channel",
    "head",
    "kv_group",
    "query_in_group",
    "head_dim",
    "expert",
    "layer",
    "residual",
)

Keep = Mapping[str, torch.Tensor]
"""Axis name -> boolean [size], true where the unit stays. Axes not named stay whole."""


@dataclass(frozen=True)
class Cost:
    """What something costs: ``params`` (a count) and ``macs`` (multiply-adds, example inputs)."""

    params: float
    macs: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.params - other.params, self.macs - other.macs)


@dataclass(frozen=True, eq=False)
class Member:
    """A slice that goes with the units of an axis.

    Attributes:
        parameter: name in ``named_parameters`` or ``named_buffers``.
        dim: dimension of that tensor.
        index: int64 ``[size, k]``, the positions along ``dim`` that belong to each unit.
    """

    parameter: str
    dim: int
    index: torch.Tensor


@dataclass(frozen=True, eq=False)
class Axis:
    """A family of removable units.

    Attributes:
        name: stable and unique, such as ``model.layers.0.mlp.gate_proj.out``.
        kind: one of ``KINDS``.
        size: number of units.
        members: slices that go together; empty for a blocked axis without parameters.
        cost: what removing one unit saves while everything else stays.
        exact: setting every member slice of a unit to zero equals removing the unit.
        inexact_because: why not, when not.
        blocked: why the axis cannot be cut at all, else None.
        min_keep: fewest units that may remain.
        var: the size variable behind the axis (None for a layer).
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...]
    cost: Cost
    exact: bool
    inexact_because: str | None = None
    blocked: str | None = None
    min_keep: int = 1
    var: Var | None = None


@dataclass(eq=False)
class Structure:
    """What can go in a model: its axes, and the typed program behind them.

    Attributes:
        axes: every axis, removable ones and blocked ones.
        program: the flat instructions (`Instr`).
        types: instruction index -> terms of the dimensions of its result; a list of such tuples for
            an operator with several results.
        holder_terms: canonical parameter or buffer name -> terms of its dimensions.
        argument_terms: instruction index -> schema argument name -> the term (or tuple of terms)
            whose size the integer argument (or list of integers) is.
    """

    axes: tuple[Axis, ...]
    program: Program
    types: dict[int, tuple[Term, ...] | list[tuple[Term, ...]]]
    holder_terms: dict[str, tuple[Term, ...]]
    argument_terms: dict[int, dict[str, Term | tuple[Term, ...]]] = field(default_factory=dict)

    def axis(self, name: str) -> Axis:
        """The axis called ``name``."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise unknown("axis", name, (a.name for a in self.axes))
