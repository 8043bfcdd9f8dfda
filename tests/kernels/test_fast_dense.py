"""The fastest dense product: every way to it agrees, and each is taken where it should be."""

import pytest
import torch

from probcomp.kernels import cpp, fast_dense
from probcomp.kernels.fast_dense import frozen_linear, onednn_linear, onednn_usable, own_usable
from tests.kernels.supports import generator, relative_error

FLOAT32 = 2e-6


@pytest.mark.parametrize("built", [True, False])
def test_every_product_agrees(built: bool, monkeypatch) -> None:
    if built and not cpp.available():
        pytest.skip("the C++ kernel is not built")
    monkeypatch.setattr(cpp, "available", lambda: built)
    weight = torch.randn(48, 64, generator=generator(0))
    bias = torch.randn(48, generator=generator(1))
    for rows in (0, 1, 7, 8, 33):
        x = torch.randn(rows, 64, generator=generator(rows))
        expected = x.double() @ weight.double().T + bias.double()
        assert frozen_linear(x, weight, bias).shape == (rows, 48)
        assert relative_error(frozen_linear(x, weight, bias), expected) < FLOAT32
        if onednn_usable(weight):
            assert relative_error(onednn_linear(x, weight, bias), expected) < FLOAT32
    for other in (torch.float64, torch.bfloat16):
        y = frozen_linear(torch.ones(2, 64, dtype=other), weight.to(other), None)
        assert y.dtype == other
    assert not onednn_usable(weight.double())
    assert not onednn_usable(weight[:0])


def test_our_own_kernel_is_for_few_rows_and_what_fits_the_cache(monkeypatch) -> None:
    weight, x = torch.ones(48, 64), torch.ones(16, 64)
    monkeypatch.setattr(cpp, "available", lambda: False)
    assert not own_usable(x, weight)
    monkeypatch.setattr(cpp, "available", lambda: True)
    assert own_usable(x, weight)
    assert not own_usable(torch.ones(17, 64), weight)
    assert not own_usable(x.double(), weight.double())
    assert not own_usable(x, torch.ones(1).expand(2**15, 2**7))


def test_onednn_is_for_what_pays_its_call(monkeypatch) -> None:
    weight = torch.randn(256, 64, generator=generator(0))
    if not onednn_usable(weight):
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(cpp, "available", lambda: False)
    calls = []
    real = fast_dense.onednn_linear
    monkeypatch.setattr(fast_dense, "onednn_linear", lambda *a: calls.append(1) or real(*a))
    frozen_linear(torch.ones(1, 64), weight, None)
    assert not calls
    frozen_linear(torch.ones(128, 64), weight, None)
    assert calls == [1]
