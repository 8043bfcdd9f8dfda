"""Where scales sit: chains of layers, flattened channels, layers that are never called."""

import torch
from torch import nn

from probcomp.inference.baselines.places import columns, find_places
from probcomp.inference.baselines.preparing import working_copy
from probcomp.models import LeNet5, LeNet300100
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.structure import trace
from tests.inference.baselines.networks import network, setting, units


def places_of(model: nn.Module, x: torch.Tensor):
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return find_places(model, removable(trace(model, (x,)), UNIT_KINDS), layers)


def test_a_dense_network_has_those_of_the_publications() -> None:
    found = places_of(LeNet300100(), torch.randn(2, 1, 28, 28))
    assert [(p.kind, p.size) for p in found] == [("features", 784), ("units", 300), ("units", 100)]
    assert [p.fan.unique().tolist() for p in found] == [[300], [100], [10]]
    assert [p.owned.unique().tolist() for p in found] == [[300], [784 + 1 + 100], [300 + 1 + 10]]


def test_a_convolutional_network_has_channels_and_flattened_positions() -> None:
    found = places_of(LeNet5(), torch.randn(2, 1, 28, 28))
    assert sorted((p.kind, p.size) for p in found) == [
        ("features", 800), ("units", 20), ("units", 50), ("units", 500)
    ]  # fmt: skip
    by_size = {p.size: p for p in found}
    assert by_size[20].fan.unique().tolist() == [50 * 25]
    assert by_size[50].fan.unique().tolist() == [16 * 500]
    assert by_size[50].owned.unique().tolist() == [16 * 500 + 20 * 25 + 1]
    index = by_size[50].readers[0].index
    assert torch.equal(index, torch.arange(50).repeat_interleave(16))


def test_spread_and_columns() -> None:
    model = network(useless=2)
    found = find_places(model, units(), ["0", "2"])
    alive = {p.name: torch.ones(p.size, dtype=torch.bool) for p in found}
    alive["hidden"][[1, 5]] = False
    alive["0.inputs"][4] = False
    kept = columns(found, alive)
    assert kept["2.weight"].tolist() == [i not in (1, 5) for i in range(12)]
    assert kept["0.weight"].tolist() == [i != 4 for i in range(6)]
    assert found[1].readers[0].identity


def test_positions_outside_an_axis_keep_the_fill() -> None:
    from probcomp.inference.baselines.places import Reader

    reader = Reader("l", torch.tensor([1, -1, 0]))
    assert reader.spread(torch.tensor([2.0, 3.0]), 1.0).tolist() == [3.0, 1.0, 2.0]
    assert not reader.identity


def test_layers_that_are_not_called_have_no_place() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = network(), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    _, names = working_copy(setting(model=Spare(), units=()))
    assert names == ["used.0", "used.2"]
