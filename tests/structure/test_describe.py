"""A module as data: read back without its constructor, and what cannot be written is named."""

import functools
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.structure.describe import import_path, read, resolve, settle, write
from tests.structure.nets import MLP, LeNet5


class Holder(nn.Module):
    """Attributes of many kinds, and a weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.act = F.gelu
        self.scaled = functools.partial(torch.mul, other=2.0)
        self.limits = (float("inf"), -1, None, torch.Size([2, 3]))
        self.table = {"a": [1, 2], 3: torch.float16}
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("computed", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.scaled(self.act(self.two(self.one(x))))


def round_trip(model: nn.Module) -> nn.Module:
    description, tensors = write(model)
    return read(json.loads(json.dumps(description)), tensors, "here")


def test_attributes_of_every_kind_come_back() -> None:
    model = Holder()
    back = round_trip(model)
    x = torch.randn(2, 3)
    assert torch.equal(back(x), model(x))
    assert back.two.weight is back.one.weight
    assert back.limits == model.limits
    assert back.table == model.table
    assert list(back.state_dict()) == list(model.state_dict())
    assert torch.equal(back.computed, model.computed)


def test_a_cut_shape_needs_no_constructor() -> None:
    model = LeNet5().eval()
    model.conv1.weight = nn.Parameter(model.conv1.weight[:3].detach())
    back = round_trip(model)
    assert back.conv1.weight.shape == (3, 1, 5, 5)
    assert not back.training


@pytest.mark.parametrize(
    ("value", "words"),
    [(lambda x: x, "what"), (object(), "what"), (torch.ones(2).to_sparse(), "dense tensors")],
)
def test_what_cannot_be_written_is_named(value, words) -> None:
    model = MLP()
    model.what = value
    with pytest.raises(InputError, match=words):
        write(model)


def test_hooks_that_would_be_lost_are_refused() -> None:
    model = MLP()
    model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="hook"):
        write(model)


def test_tensors_must_be_those_promised() -> None:
    description, tensors = write(MLP())
    name = "layers.0.weight"
    with pytest.raises(InputError, match=rf"here: tensor '{name}' is missing"):
        read(description, {n: t for n, t in tensors.items() if n != name}, "here")
    with pytest.raises(InputError, match="is not in the description"):
        read(description, {**tensors, "more": torch.ones(1)}, "here")
    with pytest.raises(InputError, match=r"the description says float32 \[24, 9\]"):
        read(description, {**tensors, name: torch.ones(2, 2)}, "here")
    with pytest.raises(InputError, match="malformed description"):
        read({**description, "modules": {"": {}}}, tensors, "here")


def test_paths_lead_back_and_bad_ones_are_refused() -> None:
    for thing in (nn.Linear, torch.relu, F.gelu):
        assert resolve(import_path(thing)) is thing
    assert import_path(lambda x: x) is None
    with pytest.raises(InputError, match="cannot import"):
        resolve("no.such:thing")


def test_settled_tensors_own_their_memory() -> None:
    model = MLP()
    shared = model.layers[0].weight.data
    settle(model)
    assert model.layers[0].weight.data_ptr() != shared.data_ptr()
    assert torch.equal(model.layers[0].weight, shared)
