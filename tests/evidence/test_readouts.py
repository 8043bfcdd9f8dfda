"""Which matrices read the units of an axis."""

import torch
from torch import Tensor, nn

from probcomp.evidence.readouts import readouts, unread
from probcomp.structure import silence, trace
from tests.recipes.jobs import job


def test_the_columns_of_a_readout_are_all_that_a_unit_does() -> None:
    """Zeroing them is the same as silencing the unit."""
    given = job("params=0.5")
    x = given.train[0][:30]
    found = readouts(given.model, given.structure, given.units)
    assert {r.parameter for r in found} == {"two.weight", "three.weight"}
    for read in found:
        assert read.module == read.parameter.removesuffix(".weight")
        unit = 3
        keep = torch.ones(len(read.columns), dtype=torch.bool)
        keep[unit] = False
        silenced = silence(given.structure, given.model, {read.axis: keep})
        other = silence(given.structure, given.model, {})
        with torch.no_grad():
            weight = other.get_parameter(read.parameter)
            matrix = read.matrix.of(weight).clone()
            matrix[:, read.columns[unit]] = 0
            weight.copy_(read.matrix.back(matrix, weight))
            torch.testing.assert_close(other(x), silenced(x), rtol=1e-5, atol=1e-5)
    assert unread(given.model, given.structure, given.units) == {}


class Convolutions(nn.Module):
    """Channels that a linear layer reads behind a flattening: four columns each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def test_a_unit_may_have_several_columns() -> None:
    model, x = Convolutions().eval(), torch.randn(2, 1, 4, 4)
    (read,) = readouts(model, trace(model, (x,)))
    assert read.parameter == "head.weight"
    assert read.columns.tolist() == [[4 * c + k for k in range(4)] for c in range(3)]


class Scaled(nn.Module):
    """Hidden units are read by a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 6)
        self.free = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.one(x)) @ self.free


def test_an_axis_that_something_else_reads_is_given_up_whole_with_a_reason() -> None:
    model, x = Scaled().eval(), torch.randn(2, 4)
    structure = trace(model, (x,))
    axes = [a for a in structure.axes if any(m.parameter == "one.weight" for m in a.members)]
    hidden = [a for a in axes if a.size == 6]
    assert not [r for r in readouts(model, structure, hidden) if r.axis in {a.name for a in hidden}]
    for axis in hidden:
        assert unread(model, structure, [axis])[axis.name]
