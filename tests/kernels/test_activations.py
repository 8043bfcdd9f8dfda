"""Activations by name, and the numbers that kernels know them by."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels.activations import ACTIVATION_CODES, ACTIVATIONS, activation_function


def test_the_codes_are_those_of_the_kernels_sources() -> None:
    assert ACTIVATION_CODES == {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}


def test_each_name_is_its_formula() -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    phi = torch.distributions.Normal(0.0, 1.0).cdf(x)
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    want = {
        "none": x, "relu": x.clamp(min=0), "gelu": x * phi, "silu": x / (1 + (-x).exp()),
        "gelu_tanh": 0.5 * x * (1 + inner.tanh()),
    }  # fmt: skip
    assert want.keys() == ACTIVATIONS.keys()
    for name, values in want.items():
        assert torch.allclose(activation_function(name)(x), values, atol=1e-12)


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown activation 'swish'.*silu"):
        activation_function("swish")
