"""From dimensions to axes: names, kinds, members and how few may stay."""

import torch
from torch import nn

from probcomp.structure import trace
from probcomp.structure.units import Names, holder_dims
from tests.structure.nets import LeNet5


def test_names_are_paths_and_unique() -> None:
    names = Names()
    assert names.give("layers.0.weight", "neuron") == "layers.0.neuron"
    assert names.give("layers.0.bias", "neuron") == "layers.0.neuron.2"
    assert names.give("weight", "channel") == "weight.channel"
    assert names.give("conv.parametrizations.weight.original0", "channel") == "conv.channel"


def test_members_of_a_flattened_channel_are_all_its_positions() -> None:
    structure = trace(LeNet5(), (torch.randn(2, 1, 28, 28),))
    axis = next(a for a in structure.axes if a.name == "conv2.channel")
    assert (axis.kind, axis.size) == ("channel", 16)
    places = {(m.parameter, m.dim): m.index for m in axis.members}
    assert set(places) == {("conv2.weight", 0), ("conv2.bias", 0), ("fc1.weight", 1)}
    assert torch.equal(places["fc1.weight", 1], torch.arange(256).view(16, 16))
    assert torch.equal(places["conv2.weight", 0], torch.arange(16)[:, None])
    assert [len(holder_dims(structure.typing, n)) for n in ("conv2.weight", "fc1.bias")] == [4, 1]


def test_a_choice_of_the_best_keeps_as_many_as_it_chooses() -> None:
    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(5, 8), nn.Linear(3, 2)

        def forward(self, x):
            return self.down(torch.relu(self.up(x)).topk(3, dim=1).values)

    structure = trace(Best(), (torch.randn(2, 5),))
    axis = next(a for a in structure.axes if a.members[0].parameter.startswith("up"))
    assert axis.blocked or axis.min_keep == 3


def test_buffers_alone_are_no_axis() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(7, 5))
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(x + self.table.sum(0))

    structure = trace(Table(), (torch.randn(2, 5),))
    assert 7 not in {axis.size for axis in structure.axes}
