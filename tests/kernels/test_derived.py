"""Copies derived from a weight: kept, rebuilt after a write, and released with it."""

import gc
import weakref

import torch

from probcomp.kernels.derived import derived, forget


class Copy:
    pass


def test_a_copy_is_built_once_until_the_weight_is_written() -> None:
    weight = torch.ones(3)
    first = derived(weight, "copy", Copy)
    assert derived(weight, "copy", Copy) is first
    assert derived(weight, "other", Copy) is not first
    weight.add_(1)
    second = derived(weight, "copy", Copy)
    assert second is not first
    weight.data = torch.ones(3)  # leaves no trace in the version
    assert derived(weight, "copy", Copy) is not second
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


def test_memory_of_a_copy_is_not_given_to_another_tensor() -> None:
    weight = torch.ones(1000)
    first = derived(weight, "copy", Copy)
    for _ in range(2):
        weight.data = weight.data * 2
    assert derived(weight, "copy", Copy) is not first
