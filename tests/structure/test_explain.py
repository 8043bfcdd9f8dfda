"""Dimensions in words."""

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.structure import trace
from probcomp.structure.explain import explain
from tests.structure.nets import MLP, LeNet5


def test_a_hidden_width_and_its_partners() -> None:
    structure = trace(MLP(), (torch.randn(2, 9),))
    text = explain(structure, "layers.0.weight", 0)
    assert text.splitlines() == [
        "layers.0.weight dim 0 = 24",
        "  24: layers.0.neuron (neuron), 3 parameter slices, zeroing is exact",
    ]
    assert "stays: " in explain(structure, "layers.0.weight", 1)


def test_a_flattened_channel_is_a_product() -> None:
    structure = trace(LeNet5(), (torch.randn(2, 1, 28, 28),))
    first, *rest = explain(structure, "fc1.weight", 1).splitlines()
    assert first == "fc1.weight dim 1 = (16 * 4 * 4)"
    assert "conv2.channel" in rest[0]
    assert len(rest) == 3


def test_what_is_not_there_is_told() -> None:
    class Idle(MLP):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(3))

    structure = trace(Idle(), (torch.randn(2, 9),))
    assert "is not used by the traced forward pass" in explain(structure, "idle", 0)
    with pytest.raises(InputError, match=r"layers\.0\.weight"):
        explain(structure, "layers.0.weigth", 0)
    with pytest.raises(InputError, match="has 2 dimensions, got dim 2"):
        explain(structure, "layers.0.weight", 2)
