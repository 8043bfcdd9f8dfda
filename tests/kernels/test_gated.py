"""The hidden layer of a gated MLP in torch."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import gated_mlp_hidden
from tests.kernels.gated_cases import parts, reference
from tests.kernels.supports import relative_error


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("listed", [False, True])
def test_it_is_the_gated_product(activation: str, listed: bool) -> None:
    p = parts()
    neurons = torch.tensor([3, 80, 5, 41]) if listed else None
    y = gated_mlp_hidden(**p, activation=activation, neurons=neurons)
    assert relative_error(y, reference(p, activation, neurons)) < 2e-6


def test_dead_neurons_get_no_gradient() -> None:
    p = parts()
    p["gate"].requires_grad_()
    neurons = torch.tensor([1, 2])
    gated_mlp_hidden(**p, neurons=neurons).sum().backward()
    touched = p["gate"].grad.abs().sum(1).nonzero().squeeze(1)
    assert touched.tolist() == [1, 2]
    with pytest.raises(InputError, match="no gradient"):
        gated_mlp_hidden(**p, backend="triton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up": torch.zeros(4, 70)}, "must both be"),
        ({"neurons": torch.tensor([90])}, r"\[0, 90\)"),
        ({"neurons": torch.tensor([1.0])}, "int64 indices"),
        ({"backend": "cpp"}, "unknown gated MLP backend"),
        ({"activation": "swiglu"}, "unknown activation"),
        ({"backend": "triton"}, "needs a GPU tensor"),
    ],
)
def test_bad_input_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        gated_mlp_hidden(**{**parts(), **change})
