"""The fastest dense product: every way to it agrees, and each is taken where it should be."""

import gc
import weakref

import pytest
import torch

from probcomp.kernels import cpp, fast_dense
from probcomp.kernels.activations import ACTIVATIONS
from probcomp.kernels.fast_dense import (
    dense_product,
    frozen_linear,
    onednn_product,
    onednn_usable,
    own_usable,
)
from tests.kernels.supports import generator, relative_error

FLOAT32 = 2e-6
CPU = torch.device("cpu")
HAS_ONEDNN = onednn_usable(torch.float32, CPU)


@pytest.mark.parametrize("shape", [(48, 64), (1000, 530)])
@pytest.mark.parametrize("built", [True, False])
def test_every_product_agrees(built: bool, shape, monkeypatch) -> None:
    if built and not cpp.available():
        pytest.skip("the C++ kernel is not built")
    monkeypatch.setattr(cpp, "available", lambda: built)
    n, k = shape
    weight = torch.randn(n, k, generator=generator(0)) / k**0.5
    bias = torch.randn(n, generator=generator(1))
    for rows in (0, 1, 7, 8, 33):
        x = torch.randn(rows, k, generator=generator(rows))
        expected = x.double() @ weight.double().T + bias.double()
        assert frozen_linear(x, weight, bias).shape == (rows, n)
        assert relative_error(frozen_linear(x, weight, bias), expected) < FLOAT32
        if HAS_ONEDNN:
            run = onednn_product(weight, lambda: weight, bias)
            assert relative_error(run(x), expected) < FLOAT32
    for other in (torch.float64, torch.bfloat16):
        y = frozen_linear(torch.ones(2, k, dtype=other), weight.to(other), None)
        assert y.dtype == other


@pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_activation_in_the_epilogue_is_the_function(activation: str, dtype) -> None:
    weight = torch.randn(48, 64, generator=generator(0)).to(dtype)
    bias = torch.randn(48, generator=generator(1)).to(dtype)
    x = torch.randn(9, 64, generator=generator(2)).to(dtype)
    got = onednn_product(weight, lambda: weight, bias, activation)(x)
    expected = ACTIVATIONS[activation](x.double() @ weight.double().T + bias.double())
    assert got.dtype == dtype
    assert relative_error(got, expected) < (FLOAT32 if dtype == torch.float32 else 8e-3)
    # Over the whole range, tails included: the functions are approximated.
    one, wide = torch.ones(1, 1), torch.linspace(-12, 12, 4001).view(-1, 1)
    tails = onednn_product(one, lambda: one, None, activation)(wide)
    assert (tails - ACTIVATIONS[activation](wide.double())).abs().max() < 5e-6


@pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")
def test_one_reordered_copy_serves_every_batch_size(monkeypatch) -> None:
    monkeypatch.setattr(cpp, "available", lambda: False)
    weight, asked = torch.randn(1024, 1024, generator=generator(0)), []
    for rows in (1, 2, 16, 300):
        x = torch.randn(rows, 1024, generator=generator(rows))
        run = dense_product(
            weight, lambda: asked.append(1) or weight, (1024, 1024), rows, x.dtype, None
        )
        assert relative_error(run(x), x.double() @ weight.double().T) < FLOAT32
    assert asked == [1]


def test_products_do_not_keep_their_weight_alive() -> None:
    for shape in ((8, 8), (1024, 1024)):
        weight = torch.randn(*shape)
        frozen_linear(torch.ones(2, shape[1]), weight, None)
        seen = weakref.ref(weight)
        del weight
        gc.collect()
        assert seen() is None


def test_our_own_kernel_is_for_few_rows_that_pay_its_call(monkeypatch) -> None:
    monkeypatch.setattr(cpp, "available", lambda: False)
    assert not own_usable(16, 2**18, torch.float32, CPU)
    monkeypatch.setattr(cpp, "available", lambda: True)
    assert own_usable(16, 2**18, torch.float32, CPU)
    assert own_usable(1, 2**25, torch.float32, CPU)  # as far as it was measured
    assert not own_usable(8, 2**25 + 1, torch.float32, CPU)
    assert own_usable(8, 2**22, torch.float32, CPU)
    assert not own_usable(16, 2**22, torch.float32, CPU)  # oneDNN is ahead there
    assert not own_usable(17, 2**18, torch.float32, CPU)
    assert own_usable(1, 2**18, torch.float32, CPU)
    assert not own_usable(1, 2**18 - 1, torch.float32, CPU)
    assert own_usable(4, 2**15, torch.float32, CPU)
    assert not own_usable(2, 2**15, torch.float32, CPU)
    assert not own_usable(16, 2**15 - 1, torch.float32, CPU)
    assert not own_usable(0, 2**25, torch.float32, CPU)
    assert not own_usable(16, 2**18, torch.float64, CPU)


@pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")
def test_onednn_is_for_what_pays_its_call(monkeypatch) -> None:
    assert not onednn_usable(torch.float64, CPU)
    monkeypatch.setattr(cpp, "available", lambda: False)
    calls = []
    real = fast_dense.onednn_product
    monkeypatch.setattr(fast_dense, "onednn_product", lambda *a: calls.append(1) or real(*a))
    cases = {(512, 1): False, (512, 2): True, (384, 1): False, (384, 2): True, (256, 16): False,
             (256, 128): True, (128, 256): False, (128, 512): True}  # fmt: skip
    for (side, rows), wanted in cases.items():
        calls.clear()
        frozen_linear(torch.ones(rows, side), torch.ones(side, side), None)
        assert calls == [1] * wanted, (side, rows)
    calls.clear()
    frozen_linear(torch.ones(4096, 128), torch.ones(0, 128), None)
    assert not calls
    low = torch.bfloat16  # the vendor's call would order the weight anew each time
    frozen_linear(torch.ones(1, 16, dtype=low), torch.ones(16, 16, dtype=low), None)
    assert calls == [1]
