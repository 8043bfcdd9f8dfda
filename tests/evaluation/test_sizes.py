import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.errors import InputError
from probcomp.evaluation import layer_sizes, size_of
from probcomp.evaluation.sizes import decode, encode

HEADER = 5


@given(
    shape=st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.float16]),
    seed=st.integers(0, 99),
)
def test_round_trip(shape, density, dtype, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator).to(dtype)
    values = values * (torch.rand(shape, generator=generator) < density)
    data = encode(values)
    assert torch.equal(decode(data, shape, dtype), values)
    assert len(data) <= HEADER + values.numel() * values.element_size()


def test_bytes_by_hand() -> None:
    dense = torch.ones(8, 8)
    assert len(encode(dense)) == HEADER + 256
    sparse = torch.zeros(8, 8)
    sparse[torch.arange(8), (5 * torch.arange(8)) % 8] = 1.0  # too few bytes for DEFLATE to gain
    assert len(encode(sparse)) == HEADER + 64 // 8 + 8 * 4


def test_clustered_zeros_cost_less() -> None:
    scattered = (torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) < 0.25).float()
    block = torch.zeros(256, 256)
    block.view(-1)[: int(scattered.sum())] = 1.0
    saved = len(encode(scattered)) - len(encode(block))
    # Nearly the whole bitmap: 0.81 bits per position for the entropy of independent zeros.
    assert saved > 0.9 * 0.81 * 256 * 256 / 8


def test_counts_of_a_network_with_tied_and_masked_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].bias.fill_(1.0)
        model[1].bias.fill_(1.0)
    found = size_of(model, macs=32)
    assert (found.params, found.nonzero, found.macs) == (24, 20, 32)
    assert found.bytes == sum(len(encode(p)) for p in model.parameters())


def test_layers_are_matched_by_name() -> None:
    dense, small = nn.Sequential(), nn.Sequential()
    dense.add_module("a", nn.Linear(3, 4))
    dense.add_module("b", nn.Linear(4, 2))
    small.add_module("c", nn.Linear(3, 2))
    layers = {layer.name: layer for layer in layer_sizes(dense, small, {"a.weight": "c.weight"})}
    assert layers["a.weight"].before == (4, 3)
    assert layers["a.weight"].after == (2, 3)
    assert layers["a.weight"].nonzero_after == 6
    assert layers["b.weight"].after is None
    assert layers["b.weight"].bytes_after == 0


def test_refuses_other_bytes() -> None:
    with pytest.raises(InputError, match="kind 7"):
        decode(b"\x07\0\0\0\0", (1,), torch.float32)
