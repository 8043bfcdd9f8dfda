"""Copies derived from a weight: kept, rebuilt after a write, and released with it."""

import gc
import weakref

import torch

from probcomp.kernels.derived import derived, forget
from probcomp.kernels.fast_dense import frozen_linear, onednn_linear, onednn_usable
from tests.kernels.supports import generator, relative_error


class Copy:
    pass


def test_a_copy_is_built_once_until_the_weight_is_written() -> None:
    weight = torch.ones(3)
    first = derived(weight, "copy", Copy)
    assert derived(weight, "copy", Copy) is first
    assert derived(weight, "other", Copy) is not first
    weight.add_(1)
    assert derived(weight, "copy", Copy) is not first
    forget(weight)
    assert derived(weight, "copy", Copy) is not first


def test_a_copy_goes_with_its_weight() -> None:
    weight = torch.ones(3)
    seen = weakref.ref(derived(weight, "copy", Copy))
    del weight
    gc.collect()
    assert seen() is None


def test_inference_tensors_have_copies_too() -> None:
    with torch.inference_mode():
        weight = torch.ones(3)
        assert derived(weight, "copy", Copy) is derived(weight, "copy", Copy)


def test_onednn_and_mkl_agree() -> None:
    weight = torch.randn(48, 64, generator=generator(0))
    bias = torch.randn(48, generator=generator(1))
    for rows in (1, 7, 8, 33):
        x = torch.randn(rows, 64, generator=generator(rows))
        expected = x.double() @ weight.double().T + bias.double()
        assert relative_error(frozen_linear(x, weight, bias), expected) < 2e-6
        if onednn_usable(weight):
            assert relative_error(onednn_linear(x, weight, bias), expected) < 2e-6
    assert not onednn_usable(weight.double())
    assert not onednn_usable(weight[:0])
