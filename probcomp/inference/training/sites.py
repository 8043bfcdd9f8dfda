"""How the weights of a parameter map to the sites of a support prior."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from probcomp.inference.training.units import Slot

Kernels = Literal["shared", "separate"]


@dataclass(frozen=True)
class Sites:
    """The matrix of sites of one parameter.

    A linear weight [out, in] is its own matrix. A convolution [out, in, *kernel] has either one
    site for each kernel (``shared``: its positions live and die together, so their evidence adds)
    or, for each kernel position, a matrix [out, in] of its own (``separate``). Neighbours in a
    matrix are neighbouring units of the layers on both sides, in the order given by ``rows`` and
    ``columns``; memory order plays no part.

    Attributes:
        weight_shape: Shape of the parameter.
        kernels: What happens to kernel positions.
        rows: Order of dimension 0 in which the prior sees it, or ``None`` for the given order.
        columns: Order of dimension 1 likewise.
    """

    weight_shape: tuple[int, ...]
    kernels: Kernels = "shared"
    rows: Tensor | None = None
    columns: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions of the sites."""
        return 2 if self.kernels == "shared" else len(self.weight_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the sites: kernel positions first where they are separate."""
        matrix = self.weight_shape[:2]
        return matrix if self.rank == 2 else (*self.weight_shape[2:], *matrix)

    def slots(self, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The parameter's gates on its first two dimensions, as gates on the sites."""
        return tuple(Slot(s.group, self.rank - 2 + s.dim, s.index) for s in slots)

    def collect(self, values: Tensor) -> Tensor:
        """Parameter-shaped values to sites; values that share a site are summed."""
        if values.dim() == 2:
            return values
        if self.kernels == "shared":
            return values.flatten(2).sum(-1)
        return values.movedim((0, 1), (-2, -1))

    def expand(self, values: Tensor) -> Tensor:
        """Site values at every weight of the parameter."""
        if len(self.weight_shape) == 2:
            return values
        if self.kernels == "shared":
            kernel = (1,) * (len(self.weight_shape) - 2)
            return values.reshape(*values.shape, *kernel).expand(self.weight_shape)
        return values.movedim((-2, -1), (0, 1))

    def to_lattice(self, values: Tensor) -> Tensor:
        """Sites in the order the prior sees."""
        if self.rows is not None:
            values = values.index_select(-2, self.rows)
        if self.columns is not None:
            values = values.index_select(-1, self.columns)
        return values

    def from_lattice(self, values: Tensor) -> Tensor:
        """Undo `to_lattice`."""
        if self.rows is not None:
            values = values.index_select(-2, torch.argsort(self.rows))
        if self.columns is not None:
            values = values.index_select(-1, torch.argsort(self.columns))
        return values
