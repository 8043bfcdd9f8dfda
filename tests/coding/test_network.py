"""A whole network in one file: any form of model, bit for bit, and what is wrong is refused."""

import json
import os
import tempfile
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from probcomp.coding import load, quantise, read_network, write_network
from probcomp.coding.file import summed
from probcomp.coding.network import (
    _WORDS,
    MAGIC,
    _inflate,
    least_bytes,
    network_bytes,
    network_of,
)
from probcomp.errors import InputError
from probcomp.models import LeNet5
from probcomp.structure import apply_masks, cut_graph, masks_of, save, shrink, trace
from tests.recipes.nets import Small, clouds, trained


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        t.dtype == second[n].dtype and torch.equal(t, second[n]) for n, t in first.items()
    )


def test_a_cut_network_needs_no_dense_model(tmp_path):
    torch.manual_seed(0)
    model, x = LeNet5().eval(), torch.randn(4, 1, 28, 28)
    structure = trace(model, (x,))
    keep = {
        axis.name: torch.arange(axis.size) % 3 == 0
        for axis in structure.axes
        if axis.exact and not axis.blocked and axis.kind in ("neuron", "channel")
    }
    small = quantise(shrink(model, structure, keep), 0.1).model
    size = write_network(small, tmp_path / "net.pcn")
    assert size.bytes == os.path.getsize(tmp_path / "net.pcn")
    assert sum(size.bits.values()) == pytest.approx(8 * size.bytes)
    back = load(tmp_path / "net.pcn")
    assert type(back) is LeNet5
    assert same(back, small)
    assert torch.equal(back(x), small(x))


def test_sizes_are_those_of_each_tensor(tmp_path):
    model = quantise(trained(), 0.1).model
    size = write_network(model, tmp_path / "net.pcn")
    parameters = dict(model.named_parameters())
    assert [t.name for t in size.tensors] == list(parameters)
    for tensor in size.tensors:
        value = parameters[tensor.name]
        assert tensor.shape == tuple(value.shape)
        assert tensor.nonzero == int(value.count_nonzero())
        assert tensor.distinct == len(value[value != 0].unique())
    for part in ("mask", "values", "codebook", "raw"):
        assert size.bits[part] == pytest.approx(sum(t.bits[part] for t in size.tensors))


@pytest.mark.parametrize("implied", [True, False])
def test_masks_come_back(tmp_path, implied):
    torch.manual_seed(0)
    model = Small()
    mask = torch.rand(model.one.weight.shape) < 0.5
    apply_masks(model, {"one.weight": mask})
    if not implied:  # a weight that may live, and is zero at the moment
        with torch.no_grad():
            model.one.weight[tuple(mask.nonzero()[0])] = 0
    write_network(model, tmp_path / "net.pcn")
    back = read_network(tmp_path / "net.pcn")
    assert torch.equal(masks_of(back)["one.weight"], mask)
    assert same(back, model)


def test_a_graph_comes_back(tmp_path):
    x, _ = clouds(8)
    structure = trace(trained(), (x,))
    axes = [a for a in structure.axes if a.exact and not a.blocked and a.kind == "neuron"]
    keep = {a.name: torch.arange(a.size) % 2 == 0 for a in axes}
    small = cut_graph(structure, trained(), keep)
    write_network(small, tmp_path / "net.pcn")
    back = load(tmp_path / "net.pcn")
    assert isinstance(back, fx.GraphModule)
    assert torch.equal(back(x), small(x))


def test_a_hugging_face_model_comes_back(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12,
    )  # fmt: skip
    model = quantise(BertModel(config).eval(), 0.05).model
    write_network(model, tmp_path / "net.pcn")
    back = load(tmp_path / "net.pcn")
    assert type(back) is BertModel
    assert same(back, model)
    ids = torch.arange(8)[None]
    assert torch.equal(back(ids).last_hidden_state, model(ids).last_hidden_state)


def test_load_still_reads_directories(tmp_path):
    save(trained(), tmp_path / "model")
    assert same(load(tmp_path / "model"), trained())
    with pytest.raises(InputError, match="no such directory"):
        load(tmp_path / "nothing")


@pytest.fixture(scope="module")
def written() -> bytes:
    return network_bytes(quantise(Small(), 0.1).model)[0]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.9999))
def test_a_cut_file_is_refused(written, share):
    with pytest.raises(InputError, match=r"not a file of a coded network|damaged|version"):
        network_of(written[: int(share * len(written))])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.9999), change=st.integers(1, 255))
def test_a_changed_byte_is_refused(written, place, change):
    data = bytearray(written)
    data[int(place * len(data))] ^= change
    with pytest.raises(InputError, match=r"not a file of a coded network|damaged|version"):
        network_of(bytes(data))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0.01, 0.9999), change=st.integers(1, 255))
def test_a_wrong_file_with_a_right_checksum_gives_one_clear_error(written, place, change):
    """A file that was made wrong: it may decode to other values, and raises nothing but ours."""
    data = bytearray(written[:-4])
    data[4 + int(place * (len(data) - 4))] ^= change
    try:
        network_of(summed(bytes(data)))
    except InputError as error:
        assert "\n" not in str(error).strip()  # noqa: PT017


def test_a_description_without_end_is_refused(monkeypatch):
    bomb = zlib.compress(b"0" * 10_000)
    monkeypatch.setattr("probcomp.coding.network.LARGEST_DESCRIPTION", 100)
    body = MAGIC + len(bomb).to_bytes(4, "little") + bomb
    with pytest.raises(InputError, match="cut short or too long"):
        network_of(summed(body))


def crafted(change) -> bytes:
    """A file whose description was changed, with a right checksum."""
    data = network_bytes(Small())[0]
    length = int.from_bytes(data[4:8], "little")
    description = _inflate(data[8 : 8 + length])
    text = change(description)
    text = json.dumps(description) if text is None else text
    packed = zlib.compress(text.encode())
    return summed(MAGIC + len(packed).to_bytes(4, "little") + packed + data[8 + length : -4])


def put(*path):
    """Put the last of ``path`` where the others lead."""

    def change(description):
        *places, key, value = path
        for place in places:
            description = description[place]
        description[key] = value

    return change


def test_the_preset_dictionary_is_part_of_the_format():
    """Files written before would be unreadable if it changed: then the magic must change too."""
    assert zlib.crc32(_WORDS) == 3094458109
    assert MAGIC == b"PCN1"


def test_the_dictionary_halves_the_description_of_a_small_network():
    data = network_bytes(Small())[0]
    length = int.from_bytes(data[4:8], "little")
    plain = json.dumps(_inflate(data[8 : 8 + length]), separators=(",", ":")).encode()
    assert length < 0.6 * len(zlib.compress(plain, 9))


def test_a_description_without_the_dictionary_is_read():
    assert isinstance(network_of(crafted(lambda _: None)), Small)


ONE = ("tensors", "model.safetensors", "one.weight")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(*ONE, 1, [-1, 4]), "is no shape"),
        (put(*ONE, 1, [1.5, 4]), "is no shape"),
        (put(*ONE, 1, [True, 4]), "is no shape"),
        (put(*ONE, 1, 4), "is no shape"),
        (put(*ONE, 1, [2**62, 2**62]), "more than 2,147,483,648 weights"),
        (put(*ONE, 1, [0, 2**62]), "more than 2,147,483,648 weights"),
        (put(*ONE, 1, [1] * 40), "40 dimensions"),
        (put(*ONE, 0, "float99"), "unknown type"),
        (put(*ONE, 0, "complex64"), "unknown type"),
        (put(*ONE, 0, ["float32"]), "unknown type"),
        (put(*ONE, "float32"), "has no type"),
        (put("tensors", 3), "damaged"),
        (put("tensors", "../evil", {}), "damaged"),
        (put("tensors", {}), "."),
        (put("texts", 3), "damaged"),
        (put("texts", "../evil", {}), "damaged"),
        (put("texts", "probcomp.json", []), "damaged"),
        (put("texts", "probcomp.json", {}), "format number is missing"),
        (put("texts", {}), "holds no probcomp.json"),
        (put("masks", ["nope"]), "a mask of 'nope'"),
        (put("masks", [["one.weight"]]), "no list of names"),
        (put("masks", 7), "no list of names"),
        (lambda _: "[" * 100_000, "."),
        (lambda _: "[]", "damaged"),
        (lambda _: "{", "cannot be read"),
        (lambda _: "9" * 5000, "."),
    ],
)
def test_a_description_made_wrong_gives_one_line_without_our_paths(change, said):
    with pytest.raises(InputError, match=said) as caught:
        network_of(crafted(change), "net.pcn")
    told = str(caught.value)
    assert told.startswith("net.pcn: ")
    assert "\n" not in told
    assert tempfile.gettempdir() not in told


def test_a_file_is_read_up_to_a_number_of_weights(written):
    total = sum(p.numel() for p in Small().parameters())
    assert isinstance(network_of(written, most=total), Small)
    with pytest.raises(InputError, match=f"more than {total - 1:,} weights"):
        network_of(written, most=total - 1)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"n_layer": 10**9},
        {"text_config": {"num_local_experts": 10**9}},
        {"depths": [2, 10**9]},
    ],
    ids=["layers", "short name", "experts within", "a list"],
)
def test_a_configuration_of_endless_layers_is_refused_before_they_are_built(config):
    from transformers import BertConfig, BertModel

    small = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12,
    )  # fmt: skip
    data = network_bytes(BertModel(small).eval())[0]
    length = int.from_bytes(data[4:8], "little")
    description = _inflate(data[8 : 8 + length])
    description["texts"]["config.json"].update(config)
    packed = zlib.compress(json.dumps(description).encode())
    hostile = summed(MAGIC + len(packed).to_bytes(4, "little") + packed + data[8 + length : -4])
    with pytest.raises(InputError, match="1,000,000,000, more than its tensors can fill"):
        network_of(hostile)


def test_no_file_is_smaller_than_its_architecture():
    """Not that of a network with most units gone, either, nor that of a graph."""
    torch.manual_seed(0)
    model, x = LeNet5().eval(), torch.randn(4, 1, 28, 28)
    structure = trace(model, (x,))
    keep = {
        axis.name: torch.arange(axis.size) < 2
        for axis in structure.axes
        if axis.exact and not axis.blocked and axis.kind in ("neuron", "channel")
    }
    for small in (shrink(model, structure, keep), cut_graph(structure, model, keep)):
        for parameter in small.parameters():
            parameter.data.zero_()
        assert 100 < least_bytes(model) < len(network_bytes(small)[0])


def test_what_cannot_be_saved_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        write_network(model, tmp_path / "net.pcn")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot read"):
        read_network(tmp_path / "none.pcn")
