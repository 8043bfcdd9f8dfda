"""Several tensors in one stream, each with what it costs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.coding.stream import PARTS, CodedSize, get_stream, put_stream, zeros_like
from probcomp.errors import InputError


def tensors(count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for i in range(count):
        shape = torch.randint(1, 6, (i % 3 + 1,), generator=generator).tolist()
        value = torch.randn(shape, generator=generator)
        made[f"t{i}"] = value * (torch.rand(shape, generator=generator) < 0.6)
    return made


@settings(max_examples=50)
@given(st.integers(0, 6), st.integers(0, 999))
def test_all_come_back_in_order(count, seed):
    given_ = tensors(count, seed)
    data, costs = put_stream(given_)
    like = {n: zeros_like(list(t.shape), "float32") for n, t in given_.items()}
    found = dict(get_stream(data, like))
    assert list(found) == list(given_) == [c.name for c in costs]
    assert all(torch.equal(found[n], t) for n, t in given_.items())


def test_costs_add_up_to_the_stream():
    given_ = tensors(6, 0)
    data, costs = put_stream(given_)
    size = CodedSize.of(len(data), costs)
    assert tuple(size.bits) == PARTS
    assert sum(size.bits.values()) == pytest.approx(8 * len(data))
    # The rest of the stream is its length (four bytes) and its last bits.
    assert 0 <= 8 * len(data) - sum(c.total for c in costs) <= 32 + 56
    for cost, tensor in zip(costs, given_.values(), strict=True):
        assert cost.shape == tuple(tensor.shape)
        assert cost.nonzero == int(tensor.count_nonzero())
        assert cost.distinct == len(tensor[tensor != 0].unique())


def test_errors_name_the_tensor():
    data, _ = put_stream({"a": torch.ones(2), "b": torch.ones(3)})
    like = {"a": torch.ones(2), "b": torch.ones(2)}
    with pytest.raises(InputError, match="b: the file holds shape"):
        dict(get_stream(data, like))
    with pytest.raises(InputError, match="end early"):
        dict(get_stream(b"abc", like))
    with pytest.raises(InputError, match="unknown type of tensor 'float33'"):
        zeros_like([1], "float33")
    with pytest.raises(InputError, match="unknown type of tensor 'zeros'"):
        zeros_like([1], "zeros")
