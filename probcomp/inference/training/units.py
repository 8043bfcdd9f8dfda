"""Groups of removable units as the training engine sees them: which positions belong to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probcomp.errors import InputError


class UnitSlice(Protocol):
    """Positions of one parameter that belong to the units of a group."""

    @property
    def parameter(self) -> str:
        """Name of the parameter."""

    @property
    def dim(self) -> int:
        """The dimension the units lie along."""

    @property
    def index(self) -> Tensor:
        """Positions along ``dim`` of each unit, integers [size, k]."""


class UnitGroup(Protocol):
    """Units that can be removed one by one; an axis of the structure is one."""

    @property
    def name(self) -> str:
        """Unique name."""

    @property
    def size(self) -> int:
        """Number of units."""

    @property
    def members(self) -> Sequence[UnitSlice]:
        """The slices that disappear with a unit."""


@dataclass(frozen=True)
class Slice:
    """A plain `UnitSlice`."""

    parameter: str
    dim: int
    index: Tensor


@dataclass(frozen=True)
class Units:
    """A plain `UnitGroup`, for models that were not traced.

    Attributes:
        name: Unique name.
        size: Number of units.
        members: The slices that disappear with a unit.
        exact: Whether zeroing a unit's slices equals removing it.
        min_keep: Fewest units that must remain.
    """

    name: str
    size: int
    members: tuple[Slice, ...]
    exact: bool = True
    min_keep: int = 1


@dataclass(frozen=True)
class Slot:
    """A dimension of a parameter whose positions are gated by the units of a group.

    Attributes:
        group: Name of the group.
        dim: Dimension of the parameter.
        index: The unit of each position, [length of that dimension]; -1 where there is none.
    """

    group: str
    dim: int
    index: Tensor

    def spread(self, values: Tensor, rank: int, fill: float) -> Tensor:
        """Values of the units [size] at the positions, shaped to broadcast over the parameter."""
        picked = values[self.index.clamp_min(0)].masked_fill(self.index < 0, fill)
        shape = [1] * rank
        shape[self.dim] = -1
        return picked.reshape(shape)

    def gather(self, values: Tensor, size: int) -> Tensor:
        """Sum a parameter-shaped tensor over everything that belongs to each unit, [size]."""
        other = [d for d in range(values.dim()) if d != self.dim]
        line = values.sum(other) if other else values
        here = self.index >= 0
        return line.new_zeros(size).index_add_(0, self.index[here], line[here])


def slots(
    groups: Sequence[UnitGroup], shapes: dict[str, tuple[int, ...]]
) -> dict[str, tuple[Slot, ...]]:
    """For each parameter in ``shapes``, the gates on its dimensions.

    Raises:
        InputError: Two groups share a name, a member names no parameter, or an index does not fit.
    """
    found: dict[str, list[Slot]] = {name: [] for name in shapes}
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise InputError(f"unit groups must have different names, got {sorted(names)}")
    for group in groups:
        for member in group.members:
            shape = shapes.get(member.parameter)
            if shape is None:
                raise InputError(
                    f"units {group.name!r} name the parameter {member.parameter!r}, "
                    f"which the model does not have; it has {sorted(shapes)[:8]}"
                )
            index = torch.as_tensor(member.index)
            if index.dim() == 1:
                index = index[:, None]
            length = shape[member.dim] if -len(shape) <= member.dim < len(shape) else -1
            if index.shape[0] != group.size or not _fits(index, length):
                raise InputError(
                    f"units {group.name!r}: the index of {member.parameter!r} has shape "
                    f"{tuple(index.shape)} for {group.size} units and dimension {member.dim} "
                    f"of {shape}"
                )
            unit = torch.full((length,), -1, dtype=torch.long)
            unit[index.reshape(-1)] = torch.arange(group.size).repeat_interleave(index.shape[1])
            found[member.parameter].append(Slot(group.name, member.dim % len(shape), unit))
    return {name: tuple(entries) for name, entries in found.items()}


def _fits(index: Tensor, length: int) -> bool:
    if index.is_floating_point() or not index.numel():
        return False
    return length > 0 and int(index.min()) >= 0 and int(index.max()) < length
