"""Eight-bit blocks: the rounding error that the scale allows, and what is refused."""

import dataclasses

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import pack, quantise
from tests.kernels.supports import block_support, generator


def example():
    weight = torch.randn(32, 64, generator=generator(0))
    return pack(weight, block_support((32, 64), (16, 32), 0.5), block=(16, 32), format="blocks")


def test_each_entry_is_within_half_a_step_of_the_original() -> None:
    packed = example()
    small = quantise(packed)
    step = small.scale.unsqueeze(-1)
    # One part in 10^6 for the float32 product that undoes the scaling.
    assert ((small.values() - packed.val).abs() <= step * (0.5 + 1e-4)).all()
    assert torch.equal(small.dense(), small.as_float().dense())
    assert small.nbytes < 0.4 * packed.nbytes


def test_a_zero_row_has_a_positive_scale_and_stays_zero() -> None:
    packed = example()
    zeroed = dataclasses.replace(packed, val=packed.val.clone().index_fill_(1, torch.tensor(3), 0))
    small = quantise(zeroed)
    assert (small.scale > 0).all()
    assert (small.values()[:, 3] == 0).all()


def test_values_that_are_not_finite_are_refused() -> None:
    packed = example()
    with pytest.raises(InputError, match="not finite"):
        quantise(dataclasses.replace(packed, val=packed.val * float("inf")))


def test_only_floating_blocks_are_rounded() -> None:
    for other in (pack(torch.ones(4, 4), torch.ones(4, 4) > 0), quantise(example())):
        with pytest.raises(InputError, match="takes floating blocks"):
            quantise(other)  # type: ignore[arg-type]


def test_a_wrong_scale_is_refused() -> None:
    small = quantise(example())
    with pytest.raises(InputError, match="scale must have shape"):
        dataclasses.replace(small, scale=small.scale[:-1])
    with pytest.raises(InputError, match="positive"):
        dataclasses.replace(small, scale=-small.scale)
    with pytest.raises(InputError, match="must be int8"):
        dataclasses.replace(small, val=small.val.float())
