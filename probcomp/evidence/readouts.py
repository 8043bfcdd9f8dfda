"""From the axes of a structure to the matrices that read their units.

Masking the columns of a read-out that belong to a unit removes the unit's whole effect, so what
the data say about a unit is found at the inputs of its read-outs: the output projection of heads,
the second layer of a feed-forward pair, the next convolution of a channel.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from probcomp.evidence.matrices import Matrix, matrix_of, produces
from probcomp.structure import Axis, Structure


@dataclass(frozen=True, eq=False)
class Readout:
    """One matrix that reads the units of one axis.

    Attributes:
        axis: Name of the axis.
        parameter: Name of the weight.
        matrix: How the weight is read as a matrix [out, inputs], and its module's path.
        columns: Columns of that matrix that belong to each unit, int64 [units, k].
    """

    axis: str
    parameter: str
    matrix: Matrix
    columns: Tensor

    @property
    def module(self) -> str:
        """Path of the module that owns the weight."""
        return self.matrix.module


def readouts(
    model: nn.Module, structure: Structure, axes: Iterable[Axis] | None = None
) -> tuple[Readout, ...]:
    """The read-outs of the axes that can be judged by them, in the order of the axes.

    Args:
        model: The dense model.
        structure: Its axes.
        axes: Those to look at; by default all exact axes that can be cut.

    Returns:
        For every axis all of its read-outs, or none: see `unread` for the reasons.
    """
    chosen = _chosen(structure, axes)
    return tuple(r for axis in chosen for r in _of_axis(model, axis)[0])


def unread(
    model: nn.Module, structure: Structure, axes: Iterable[Axis] | None = None
) -> Mapping[str, str]:
    """Axes that have no complete set of read-outs, and why, in words."""
    reasons = {a.name: _of_axis(model, a)[1] for a in _chosen(structure, axes)}
    return {name: reason for name, reason in reasons.items() if reason}


def _chosen(structure: Structure, axes: Iterable[Axis] | None) -> tuple[Axis, ...]:
    if axes is not None:
        return tuple(axes)
    return tuple(a for a in structure.axes if a.exact and not a.blocked and a.kind != "layer")


def _of_axis(model: nn.Module, axis: Axis) -> tuple[tuple[Readout, ...], str]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for member in axis.members:
        parameter = parameters.get(member.parameter)
        if parameter is None or parameter.dim() < 2:
            continue  # buffers, biases and norms scale a unit; they do not read it
        path = member.parameter.rpartition(".")[0]
        module = model.get_submodule(path)
        matrix = matrix_of(module, path, model)
        own = member.parameter.endswith(".weight")
        if isinstance(matrix, Matrix) and own and member.dim == matrix.input_dim:
            columns = matrix.columns(member.index)
            found.append(Readout(axis.name, member.parameter, matrix, columns))
        elif not (own and produces(module, member.dim)):
            known = isinstance(matrix, Matrix)
            return (), f"dimension {member.dim} of {member.parameter}" if known else str(matrix)
    if not found:
        return (), "no linear layer or convolution reads its units"
    return tuple(found), ""
