"""Axes: the families of units that can be removed, and what is known of a traced model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from probcomp.errors import InputError, SurgeryError, unknown
from probcomp.structure.ir import Program
from probcomp.structure.terms import Term, Var, size_after

if TYPE_CHECKING:
    from probcomp.structure.branches import Branch
    from probcomp.structure.export import Inputs
    from probcomp.structure.rules import Typing

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


@dataclass(frozen=True, eq=False)
class Structure:
    """What can go in a model: its axes, and the typed program behind them.

    Attributes:
        axes: every axis, removable ones and blocked ones, then the layers.
        typing: what the operator rules found (the terms of every tensor).
        branches: layer name -> the residual branch behind it.
        parameters: name -> shape of every parameter, each tensor once.
        layout: how the result of forward is put together from the graph's outputs.
        dynamic: whether the program keeps batch and sequence sizes symbolic.
        inputs: the example inputs, as they were given.
    """

    axes: tuple[Axis, ...]
    typing: "Typing"
    branches: Mapping[str, "Branch"]
    parameters: Mapping[str, tuple[int, ...]]
    layout: Any
    dynamic: bool
    inputs: "Inputs"

    @property
    def program(self) -> Program:
        """The flat instructions (`Instr`)."""
        return self.typing.program

    @cached_property
    def types(self) -> dict[int, tuple[Term, ...] | list[tuple[Term, ...]]]:
        """Instruction index -> terms of its result's dimensions (a list for several results)."""
        return {
            self.program.of[node].index: [t.dims for t in typed]
            if isinstance(typed, list)
            else typed.dims
            for node, typed in self.typing.types.items()
        }

    @cached_property
    def holder_terms(self) -> dict[str, tuple[Term, ...]]:
        """Canonical parameter, buffer or constant name -> terms of its dimensions."""
        from probcomp.structure.units import holder_dims

        return {name: holder_dims(self.typing, name) for name in self.program.holders}

    @property
    def argument_terms(self) -> dict[int, dict[str, Term | tuple[Term, ...]]]:
        """Instruction index -> schema argument name -> the term(s) whose size the argument is.

        A literal integer argument must become ``size_after(term, kept)`` after a cut; a list of
        integers has one term each. `graph_cut.new_arguments` evaluates them.
        """
        return self.typing.arguments

    @cached_property
    def _by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    def axis(self, name: str) -> Axis:
        """The axis called ``name``."""
        if name not in self._by_name:
            raise unknown("axis", name, self._by_name)
        return self._by_name[name]

    def resolve(self, keep: Keep) -> tuple[dict[Var, torch.Tensor], list[str]]:
        """Check ``keep`` and translate it.

        Returns:
            For each variable that loses units the boolean vector of those that stay, and the names
            of the layers that go.

        Raises:
            InputError: for unknown names, wrong types or sizes.
            SurgeryError: when a blocked axis would be cut, or too few units would stay.
        """
        kept: dict[Var, torch.Tensor] = {}
        layers: list[str] = []
        for name, given in keep.items():
            axis = self.axis(name)
            mask = _mask(axis, given)
            if bool(mask.all()):
                continue
            if axis.blocked is not None:
                raise SurgeryError(f"axis {name!r} cannot be cut: {axis.blocked}")
            count = int(mask.sum())
            if count < axis.min_keep:
                raise SurgeryError(
                    f"axis {name!r} would keep {count} of {axis.size} units, "
                    f"min_keep is {axis.min_keep}; keep more"
                )
            if axis.var is None:
                layers.append(name)
            else:
                kept[axis.var] = mask
        self._check_minima({var: int(mask.sum()) for var, mask in kept.items()})
        return kept, layers

    def _check_minima(self, counts: Mapping[Var, int]) -> None:
        for minimum in self.typing.minima:
            left = size_after(minimum.term, counts)
            if left < minimum.count:
                raise SurgeryError(
                    f"{minimum.site} chooses {minimum.count} of {left} positions that would stay; "
                    "keep more units of its axes"
                )

    def cost(self, keep: Keep | None = None) -> Cost:
        """Parameters and multiply-adds of the model that keeps what ``keep`` says.

        Exact for joint removals: both sides of a matrix shrink together. Multiply-adds are those of
        matrix products, convolutions and attention for the whole batch of example inputs.
        """
        from probcomp.structure.cost import total_cost

        return total_cost(self, keep)

    def silence(self, model: torch.nn.Module, keep: Keep) -> torch.nn.Module:
        """A deep copy of the dense model whose removed units do nothing (see `silence`)."""
        from probcomp.structure.silence import silence

        return silence(self, model, keep)

    def explain(self, parameter: str, dim: int) -> str:
        """What a dimension of a parameter is made of, and why its parts can or cannot be cut."""
        from probcomp.structure.explain import explain

        return explain(self, parameter, dim)


def _mask(axis: Axis, given: torch.Tensor) -> torch.Tensor:
    mask = torch.as_tensor(given).cpu()
    if mask.dtype != torch.bool or tuple(mask.shape) != (axis.size,):
        raise InputError(
            f"keep[{axis.name!r}] is {mask.dtype} {list(mask.shape)}, expected bool [{axis.size}]"
        )
    return mask


def round_keep(
    structure: Structure,
    keep: Keep,
    multiple: int,
    scores: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Revive removed units until every kept count is a multiple of ``multiple`` (or all stay).

    Kernels run widths that are multiples of 8 or 16 faster, and some refuse others. Layers are left
    alone, and so are axes with fewer than ``multiple`` units.

    Args:
        structure: the traced model.
        keep: axis name -> boolean [size].
        multiple: counts are rounded up to a multiple of it.
        scores: axis name -> [size]; the highest-scored removed units come back first. Without
            scores the first ones do.
    """
    if multiple < 1:
        raise InputError(f"multiple is {multiple}, expected a positive integer")
    rounded: dict[str, torch.Tensor] = {}
    for name, given in keep.items():
        axis = structure.axis(name)
        mask = _mask(axis, given).clone()
        count = int(mask.sum())
        if axis.kind != "layer" and axis.size >= multiple and count < axis.size:
            wanted = min(-(-count // multiple) * multiple, axis.size)
            score = (
                torch.zeros(axis.size) if scores is None else scores[name].detach().cpu().float()
            )
            score = score.masked_fill(mask, -torch.inf)
            order = torch.sort(score, descending=True, stable=True).indices
            mask[order[: wanted - count]] = True
        rounded[name] = mask
    return rounded
