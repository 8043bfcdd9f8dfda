"""The common part of the packed formats: checks, moves, and files."""

import dataclasses

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import PackedWeight, pack
from probcomp.storage import read_tensors, write_tensors
from tests.kernels.supports import block_support, generator

FORMATS = ["dense", "compact", "blocks", "runs", "int8"]


def example(kind: str) -> PackedWeight:
    weight = torch.randn(40, 72, generator=generator(0))
    support = block_support((40, 72), (8, 16), 0.4, seed=1)
    bias = torch.randn(40, generator=generator(2))
    return pack(weight, support, block=(16, 16), format=kind, bias=bias)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_saved_weight_reads_back_bit_for_bit(kind: str, tmp_path) -> None:
    packed = example(kind)
    packed.save(tmp_path / "w.safetensors")
    back = PackedWeight.load(tmp_path / "w.safetensors")
    assert type(back) is type(packed)
    for field in dataclasses.fields(packed):
        ours, theirs = getattr(packed, field.name), getattr(back, field.name)
        same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        assert same, field.name


def test_a_newer_format_version_is_refused(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    example("blocks").save(path)
    tensors = read_tensors(path)
    text = bytes(tensors["probcomp.header"].tolist()).replace(
        b'"format_version": 1', b'"format_version": 9'
    )
    tensors["probcomp.header"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    write_tensors(path, tensors)
    with pytest.raises(InputError, match="version 9"):
        PackedWeight.load(path)


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    write_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(InputError, match="not a packed weight"):
        PackedWeight.load(tmp_path / "w.safetensors")


def test_a_tampered_index_is_refused_when_read(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    example("blocks").save(path)
    tensors = read_tensors(path)
    tensors["col"][0] = 99
    write_tensors(path, tensors)
    with pytest.raises(InputError, match="col must lie in"):
        PackedWeight.load(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_to_converts_floating_tensors_only(kind: str) -> None:
    packed = example(kind).to(dtype=torch.float64)
    assert packed.weight_dtype == torch.float64
    assert packed.dense().dtype == torch.float64
    assert packed.bias is not None
    assert packed.bias.dtype == torch.float64


def test_bias_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match="bias has shape"):
        dataclasses.replace(example("blocks"), bias=torch.zeros(3))


def test_the_repr_says_what_is_stored() -> None:
    packed = example("blocks")
    assert f"density={packed.density:.3f}" in repr(packed)
    assert packed.nbytes >= packed.stored * 4
