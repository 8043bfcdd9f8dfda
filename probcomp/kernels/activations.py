"""Activations that an epilogue may apply, by name."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.errors import unknown


def _identity(x: Tensor) -> Tensor:
    return x


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _identity,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": functional.silu,
}

ACTIVATION_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
"""Numbers that stand for the activations in the Triton and C++ kernels."""


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a name in `ACTIVATIONS`; raises `InputError` for another name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
