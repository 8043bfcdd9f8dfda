"""Which configuration gives these shapes, found without knowing any field by name."""

import torch
from torch import nn

from probcomp.structure.config_search import (
    edited,
    layer_builder,
    layer_list,
    readable_extras,
    search,
    shapes_of,
)


class Config:
    def __init__(self, hidden: int = 12, inner: int = 20, heads: int = 3, depth: int = 2) -> None:
        self.hidden, self.inner, self.heads, self.depth, self.dropout = (
            hidden, inner, heads, depth, 0.1,
        )  # fmt: skip


class Layer(nn.Module):
    def __init__(self, config: Config, layer_idx: int = 0) -> None:
        super().__init__()
        size = getattr(config, "head_size", config.hidden // config.heads)
        self.layer_idx, self.head_size = layer_idx, size
        self.q = nn.Linear(config.hidden, config.heads * size)
        self.up = nn.Linear(config.hidden, config.inner)


class Net(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.depth))


def built(config: Config, **edits: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(Net(edited(config, edits)))


def test_the_dense_shapes_need_no_edit() -> None:
    assert search(Net, Config(), built(Config())) == {}


def test_a_width_is_found_by_the_shapes_it_changes() -> None:
    assert search(Net, Config(), built(Config(), inner=7)) == {"inner": 7}


def test_a_field_that_the_configuration_lacks_is_given() -> None:
    """Two heads of the old size: the quotient of the configuration would change their size."""
    target = built(Config(), heads=2, head_size=4)
    with torch.device("meta"):
        extras = readable_extras(Layer(Config()), Config())
    assert extras["head_size"] == 4
    found = search(Net, Config(), target, extra=extras)
    assert found is not None
    assert built(Config(), **found) == target


def test_shapes_that_nothing_explains_give_none() -> None:
    target = dict(built(Config()))
    target["layers.0.up.weight"] = (7, 12)
    assert search(Net, Config(), target) is None


def test_only_the_names_asked_for_are_compared() -> None:
    target = dict(built(Config(), inner=7)) | {"layers.1.up.weight": (1, 1)}
    found = search(Net, Config(), target, within=lambda name: name.startswith("layers.0"))
    assert found == {"inner": 7}


def test_edits_are_made_on_a_copy() -> None:
    config = Config()
    assert edited(config, {"inner": 3}).inner == 3
    assert config.inner == 20


def test_lists_of_layers_and_how_one_is_made() -> None:
    net = Net(Config())
    assert layer_list(net) == "layers"
    assert layer_list(nn.Sequential(net, Net(Config()))) is None
    make = layer_builder(net.layers[0])
    assert make is not None
    assert make(Config(inner=5), 3).layer_idx == 3
    assert layer_builder(nn.Linear(2, 2)) is None
