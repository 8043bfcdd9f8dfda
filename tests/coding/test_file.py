"""Coded files: bit for bit, resized layers, and every way a file can be wrong."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from probcomp.coding import coded_size, decode, encode, quantise
from probcomp.coding.file import stored_tensors
from probcomp.errors import InputError
from probcomp.models import LeNet5, LeNet300100, ResNetCIFAR
from probcomp.structure import shrink, trace


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = stored_tensors(one), stored_tensors(other)
    return list(first) == list(second) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first.values(), second.values())
    )


def sparse(model: nn.Module, levels: int = 8, share: float = 0.1, seed: int = 0) -> nn.Module:
    """A model with few distinct weights, most of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                kept = torch.rand(parameter.shape, generator=generator) < share
                book = torch.randn(levels, generator=generator).half().float()
                index = torch.randint(levels, parameter.shape, generator=generator)
                parameter.copy_(book[index] * kept)
            else:
                parameter.copy_(parameter.half().float())
    return model


@pytest.mark.parametrize("make", [LeNet300100, LeNet5, lambda: ResNetCIFAR(8)])
def test_networks_come_back_bit_for_bit(make, tmp_path):
    model = sparse(make())
    size = encode(model, tmp_path / "weights.pcw")
    assert size.bytes == os.path.getsize(tmp_path / "weights.pcw")
    assert sum(size.bits.values()) == pytest.approx(8 * size.bytes)
    assert same(decode(tmp_path / "weights.pcw", make()), model)
    # 3 bits of index and H2(0.1) = 0.47 bits of mask: far below the 3.2 bits of float32 alone.
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert size.bits["mask"] + size.bits["values"] < (0.1 * 3 + 0.48) * weights + 200


def test_full_precision_comes_back(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3).double())
    model[2].weight.data = model[2].weight.data.float().double()
    model[2].bias.data = model[2].bias.data.float().double()
    model[0].weight.data[2] = 0
    model[1](torch.randn(9, 7))
    encode(model, tmp_path / "w")
    other = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3).double())
    back = decode(tmp_path / "w", other)
    assert same(back, model)
    assert int(back[1].num_batches_tracked) == 1
    assert not same(other, model)  # the model given is not changed


def test_removed_units_resize_the_architecture(tmp_path):
    torch.manual_seed(0)
    model, x = LeNet5().eval(), torch.randn(4, 1, 28, 28)
    structure = trace(model, (x,))
    keep = {
        axis.name: torch.arange(axis.size) % 3 == 0
        for axis in structure.axes
        if axis.exact and not axis.blocked and axis.kind in ("neuron", "channel")
    }
    small = shrink(model, structure, keep)
    encode(small, tmp_path / "w")
    back = decode(tmp_path / "w", LeNet5()).eval()
    assert same(back, small)
    assert torch.equal(back(x), small(x))
    assert (back.conv2.in_channels, back.fc1.out_features) == (7, 167)
    assert same(decode(tmp_path / "w", small), small)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 10**6),
)
def test_any_parameter_comes_back(tmp_path_factory, shape, dtype, seed):
    path = tmp_path_factory.mktemp("any") / "w"
    generator = torch.Generator().manual_seed(seed)
    model, other = nn.Module(), nn.Module()
    value = torch.randn(shape, generator=generator).to(dtype)
    value[torch.rand(shape, generator=generator) < 0.5] = 0
    model.register_parameter("w", nn.Parameter(value))
    model.register_buffer("n", torch.tensor([-3, 5, 0]))
    other.register_parameter("w", nn.Parameter(torch.zeros(shape, dtype=dtype)))
    other.register_buffer("n", torch.zeros(3, dtype=torch.int64))
    encode(model, path)
    assert same(decode(path, other), model)


def test_a_layer_without_units_comes_back(tmp_path):
    # A network that lost a whole layer: [0, n] and [n, 0] tensors.
    lost = LeNet300100(inputs=6, hidden=(4, 3))
    lost.fc2.weight = nn.Parameter(torch.zeros(0, 4))
    lost.fc2.bias = nn.Parameter(torch.zeros(0))
    lost.fc3.weight = nn.Parameter(torch.zeros(10, 0))
    encode(lost, tmp_path / "w")
    back = decode(tmp_path / "w", LeNet300100(inputs=6, hidden=(4, 3)))
    assert same(back, lost)
    assert (back.fc2.out_features, back.fc3.in_features) == (0, 0)
    assert quantise(lost, 0.1).model.fc2.weight.shape == (0, 4)


def test_tied_weights_are_written_once():
    tied = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    alone = coded_size(tied).bytes
    tied[1].weight = tied[0].weight
    assert coded_size(tied).bytes < 0.6 * alone


@pytest.mark.parametrize("place", [0, 3, 6, 10, 30, -1])
def test_a_changed_byte_is_found(tmp_path, place):
    path = tmp_path / "w"
    encode(sparse(LeNet300100(inputs=16)), path)
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    words = r"not a file|version" if place in (0, 3) else "damaged"
    with pytest.raises(InputError, match=words):
        decode(path, LeNet300100(inputs=16))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_found(tmp_path, share):
    path = tmp_path / "w"
    encode(sparse(LeNet300100(inputs=16)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"not a file|damaged"):
        decode(path, LeNet300100(inputs=16))


def test_another_architecture_is_told(tmp_path):
    path = tmp_path / "w"
    encode(sparse(LeNet300100(inputs=16)), path)
    with pytest.raises(InputError, match="other tensors"):
        decode(path, LeNet5())
    with pytest.raises(InputError, match="more than the model's"):
        decode(path, LeNet300100(inputs=12))
    with pytest.raises(InputError, match="cannot read"):
        decode(tmp_path / "none", LeNet5())


def test_layers_that_cannot_be_resized_are_told(tmp_path):
    encode(nn.Embedding(3, 4), tmp_path / "w")
    with pytest.raises(InputError, match="Embedding cannot be resized"):
        decode(tmp_path / "w", nn.Embedding(5, 4))


def test_what_cannot_be_stored_is_refused(tmp_path):
    bad = nn.Linear(2, 2)
    bad.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"weight.*NaN"):
        encode(bad, tmp_path / "w")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="float64"):
        encode(nn.ParameterList([torch.tensor([0.1], dtype=torch.float64)]), tmp_path / "w")
    with pytest.raises(InputError, match="no parameters"):
        encode(nn.ReLU(), tmp_path / "w")


def test_parts_of_a_layer_must_agree(tmp_path):
    """A file of a layer whose bias is longer than its weight is wide."""
    wrong = nn.Sequential(nn.Linear(4, 3))
    wrong[0].bias = nn.Parameter(torch.ones(5))
    encode(wrong, tmp_path / "w.pcw")
    with pytest.raises(InputError, match=r"0.bias has 5 entries, its layer 3 units"):
        decode(tmp_path / "w.pcw", nn.Sequential(nn.Linear(4, 6)))
    norm = nn.Sequential(nn.BatchNorm1d(4))
    norm[0].running_mean = torch.ones(3)
    encode(norm, tmp_path / "n.pcw")
    with pytest.raises(InputError, match=r"running_\w+ has 3 entries|has 4 entries"):
        decode(tmp_path / "n.pcw", nn.Sequential(nn.BatchNorm1d(4)))
    encode(nn.Sequential(nn.Conv2d(2, 3, 1)), tmp_path / "c.pcw")
    with pytest.raises(InputError, match="cannot be resized"):
        decode(tmp_path / "c.pcw", nn.Sequential(nn.Conv2d(2, 3, 3)))
