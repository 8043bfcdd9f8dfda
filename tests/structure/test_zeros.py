"""Where zeros go: which operators let a zero through, told on real programs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.structure import trace
from probcomp.structure.zeros import plain_name


class Between(nn.Module):
    """Two linear layers with something in between."""

    def __init__(self, middle, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8, bias=bias), nn.Linear(8, 3)
        self.middle = middle

    def forward(self, x):
        return self.down(self.middle(self.up(x)))


def hidden(middle):
    structure = trace(Between(middle), (torch.randn(2, 5),))
    return next(a for a in structure.axes if a.size == 8)


THROUGH = [
    torch.relu, torch.tanh, F.gelu, lambda x: x * 3, lambda x: x / 2, lambda x: x + x,
    lambda x: x.clamp(-1, 1), lambda x: x.pow(2), lambda x: x.view(2, 8, 1).flatten(1),
    lambda x: x.flip(0), lambda x: torch.where(x > 0, x, 0.1 * x),
]  # fmt: skip
RAISED = [
    torch.sigmoid, torch.cos, torch.exp, lambda x: x + 1, lambda x: x.clamp(min=0.5),
    lambda x: F.pad(x, (1, 1), value=1.0)[:, 1:-1], lambda x: F.softplus(x),
]  # fmt: skip


@pytest.mark.parametrize("middle", THROUGH)
def test_zeros_pass(middle) -> None:
    assert hidden(middle).exact


@pytest.mark.parametrize("middle", RAISED)
def test_zeroed_weights_of_the_reader_guard_what_is_not_zero(middle) -> None:
    """The reader's own columns are zeroed too, so the sum over the unit is right in any case."""
    axis = hidden(middle)
    assert axis.exact
    assert {m.parameter for m in axis.members} == {"up.weight", "up.bias", "down.weight"}


@pytest.mark.parametrize(
    ("middle", "exact"),
    [
        (lambda x: x - torch.relu(x).sum(1, keepdim=True), True),
        (lambda x: x - torch.sigmoid(x).sum(1, keepdim=True), False),
        (lambda x: x / (x + 1).square().sum(1, keepdim=True), False),
        (lambda x: x / x.square().sum(1, keepdim=True), True),
        (lambda x: x - x.mean(1, keepdim=True), False),
        (lambda x: x.softmax(1), False),
    ],
)
def test_a_sum_over_units_needs_zeros(middle, exact) -> None:
    axis = hidden(middle)
    assert axis.exact == exact
    assert exact or axis.inexact_because


def test_in_place_operators_have_the_name_of_the_others() -> None:
    assert plain_name("relu_") == "relu"
    assert plain_name("add") == "add"
    assert plain_name("__and__") == "__and__"
