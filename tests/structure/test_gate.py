"""The comparison that a cut has to pass."""

import pytest
import torch
from torch import nn

from probcomp.structure import trace
from probcomp.structure.gate import difference, run, two_sizes
from tests.structure.nets import MLP, LeNet5


def test_equal_outputs_pass_and_the_first_difference_is_named() -> None:
    a = [torch.randn(3, 4, dtype=torch.float64)]
    assert difference(a, [a[0].clone()]) is None
    assert difference(a, [a[0] + 1e-12]) is None
    assert "differs by" in str(difference(a, [a[0] * (1 + 1e-4)]))
    assert "has shape (3, 4) instead of (3, 3)" in str(difference(a, [a[0][:, :3]]))
    assert difference(a, []) == "it returns 1 tensors instead of 0"


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [(float("nan"), float("nan"), True), (float("inf"), float("inf"), True),
     (float("nan"), 1.0, False), (float("inf"), 1.0, False), (float("inf"), -float("inf"), False)],
)  # fmt: skip
def test_values_that_are_not_finite_must_agree(one, two, same) -> None:
    found = difference([torch.tensor([0.5, one])], [torch.tensor([0.5, two])])
    assert (found is None) == same


def test_precision_decides_how_near_is_near() -> None:
    a = torch.ones(8)
    assert difference([a], [a * (1 + 1e-5)]) is None
    assert difference([a.double()], [a.double() * (1 + 1e-5)]) is not None


def test_all_tensors_of_a_result_are_compared() -> None:
    class Nested(nn.Module):
        def forward(self, x):
            return {"a": (x, [x + 1]), "n": 3, "ids": x.long()}

    found = run(Nested(), (torch.zeros(2),))
    assert [t.tolist() for t in found] == [[0, 0], [1, 1]]


def test_another_batch_size_is_tried_where_the_model_allows() -> None:
    first, second = two_sizes(trace(MLP(), (torch.randn(2, 9),)), MLP())
    assert first[0].shape == (2, 9)
    assert second[0].shape == (3, 9)
    sizes = two_sizes(trace(LeNet5(), (torch.randn(2, 1, 28, 28),), dynamic=False), LeNet5())
    assert [tuple(s[0].shape) for s in sizes] == [(2, 1, 28, 28)]
