"""The inference-only operators: opcheck, gradients of the input, and those that are refused."""

import pytest
import torch

from probcomp.kernels import masked_linear, pack
from probcomp.kernels.library_packed import group_linear, run_linear
from tests.kernels.supports import generator, relative_error


def test_opcheck_of_runs_and_groups() -> None:
    x = torch.randn(5, 64).requires_grad_()
    support = torch.zeros(32, 64, dtype=torch.bool)
    support.view(32, 16, 4)[..., [0, 2]] = True
    weight, bias = torch.randn(32, 64), torch.randn(32)
    runs = pack(weight, support, format="runs", bias=bias)
    torch.library.opcheck(
        run_linear, (x, runs.val, runs.ptr, runs.seg, runs.inverse, bias, "none", "gather")
    )
    group = pack(weight, support, format="nm", bias=bias)
    torch.library.opcheck(
        group_linear, (x, group.val, group.code, bias, group.n, group.m, "none", "auto")
    )


@pytest.mark.parametrize("format", ["runs", "nm"])
def test_the_input_has_a_gradient_and_the_weight_has_none(format: str) -> None:
    support = torch.zeros(32, 64, dtype=torch.bool)
    support.view(32, 16, 4)[..., [0, 2]] = True
    weight = torch.randn(32, 64, generator=generator(0), dtype=torch.float64)
    packed = pack(weight, support, format=format, bias=torch.zeros(32))
    x = torch.randn(5, 64, generator=generator(1), dtype=torch.float64, requires_grad=True)
    packed.bias.requires_grad_()
    y = masked_linear(x, packed, activation="relu")
    dx, db = torch.autograd.grad(y.sum(), (x, packed.bias))
    passed = (x @ packed.dense().T > 0).double()
    assert relative_error(dx, passed @ packed.dense()) < 1e-13
    assert torch.equal(db, passed.sum(0))
    packed.val.requires_grad_()
    with pytest.raises(NotImplementedError, match="no gradient of the weight"):
        masked_linear(x, packed).sum().backward()
