"""Activations inside a kernel against their functions, in the process that interprets."""

import pytest
import torch
import triton
import triton.language as tl

from probcomp.kernels.activations import ACTIVATION_CODES, ACTIVATIONS
from probcomp.kernels.gpu.epilogue import activate


@triton.jit
def apply(x_ptr, y_ptr, ACT: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y_ptr + at, activate(tl.load(x_ptr + at), ACT))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_each_code_is_its_function_over_the_whole_range(name: str) -> None:
    x = torch.linspace(-30, 30, 1024)
    y = torch.empty_like(x)
    apply[(1,)](x, y, ACT=ACTIVATION_CODES[name], SIZE=1024)
    assert (y - ACTIVATIONS[name](x.double())).abs().max() < 2e-6


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_relu_keeps_what_is_no_number() -> None:
    x = torch.tensor([float("nan"), -1.0, 2.0, float("inf")])
    y = torch.empty_like(x)
    apply[(1,)](x, y, ACT=ACTIVATION_CODES["relu"], SIZE=4)
    assert y.isnan().tolist() == [True, False, False, False]
    assert y[1:].tolist() == [0.0, 2.0, float("inf")]
