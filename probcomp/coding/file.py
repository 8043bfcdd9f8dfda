"""A model's weights in one small file, read back bit for bit.

The file: four bytes ``PCW1``; a checksum of the tensor names; the length of the coded stream; the
stream of one range coder over all tensors; values that have no codebook; a checksum of everything
before. Numbers are little-endian. Names and the network itself are not stored: a reader brings the
architecture, as with a safetensors file, and finds the sizes of removed units in the file.
"""

import copy
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from probcomp.coding.range_coder import RangeDecoder, RangeEncoder
from probcomp.coding.tensors import get_tensor, put_tensor
from probcomp.errors import InputError
from probcomp.storage import replacing

MAGIC = b"PCW1"
_HEAD = struct.Struct("<4sII")
_SUM = struct.Struct("<I")


@dataclass(frozen=True)
class CodedSize:
    """Bytes of a coded model, and the bits of its parts.

    Attributes:
        bytes: Size of the file.
        bits: Bits of ``mask``, ``values`` (codebook indices), ``codebook``, ``raw`` (values stored
            as they are: mostly biases) and ``header`` (the rest).
    """

    bytes: int
    bits: dict[str, float]


def encode(model: nn.Module, path: Path | str) -> CodedSize:
    """Write the parameters and persistent buffers of a model; the file is whole or not there.

    Lossless. Masks cost an adaptive arithmetic code of their positions, and tensors with at most
    256 distinct values an adaptive code of the codebook indices; make them few by
    `probcomp.coding.quantise`.

    Args:
        model: Any module. Zeros of its parameters are what was removed.
        path: The file.

    Returns:
        Its size, and what the parts cost.

    Raises:
        InputError: Values that are not finite or do not fit float32, or a path that cannot be
            written.
    """
    data, bits = encode_bytes(model)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return CodedSize(os.path.getsize(path), bits)


def coded_size(model: nn.Module) -> CodedSize:
    """What `encode` would write, without writing it."""
    data, bits = encode_bytes(model)
    return CodedSize(len(data), bits)


def decode(path: Path | str, model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the values that `encode` wrote.

    Args:
        path: The file.
        model: A module of the same architecture, with units not yet removed or removed already.
            Linear layers, convolutions and norms take the sizes in the file.

    Raises:
        InputError: The file is missing, damaged, of another version, or of another architecture.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < _HEAD.size + _SUM.size or data[:3] != MAGIC[:3]:
        raise InputError(f"{path} is not a file of coded weights")
    if data[:4] != MAGIC:
        raise InputError(
            f"{path} has format version {data[3:4]!r}, expected {MAGIC[3:]!r}; "
            "read it by the release that wrote it"
        )
    body, (expected,) = data[: -_SUM.size], _SUM.unpack(data[-_SUM.size :])
    if zlib.crc32(body) != expected:
        raise InputError(f"{path} is damaged: its checksum does not match; copy it again")
    _, names, length = _HEAD.unpack_from(body)
    model = copy.deepcopy(model)
    tensors = stored_tensors(model)
    if names != _name_sum(tensors):
        raise InputError(
            f"{path} belongs to a model with other tensors; this one has {', '.join(tensors)}"
        )
    coder = RangeDecoder(body[_HEAD.size : _HEAD.size + length])
    raw = memoryview(body)[_HEAD.size + length :]
    for name, old in tensors.items():
        try:
            value, taken = get_tensor(coder, raw, old)
        except InputError as error:
            raise InputError(f"{path}: {name}: {error}") from error
        raw = raw[taken:]
        _place(model, name, old, value)
    return model


def encode_bytes(model: nn.Module) -> tuple[bytes, dict[str, float]]:
    """The content of the file, and the bits of its parts."""
    tensors = stored_tensors(model)
    if not tensors:
        raise InputError("the model has no parameters; there is nothing to store")
    coder, raw = RangeEncoder(), bytearray()
    for name, tensor in tensors.items():
        put_tensor(coder, raw, tensor, name)
    stream = coder.finish()
    body = _HEAD.pack(MAGIC, _name_sum(tensors), len(stream)) + stream + bytes(raw)
    data = body + _SUM.pack(zlib.crc32(body))
    parts = {name: coder.spent.get(name, 0.0) for name in ("mask", "values", "codebook")}
    parts["raw"] = 8.0 * len(raw)
    return data, parts | {"header": 8.0 * len(data) - sum(parts.values())}


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, then persistent buffers, tied tensors once."""
    kept = model.state_dict()
    buffers = {name: b for name, b in model.named_buffers() if name in kept}
    return dict(model.named_parameters()) | buffers


def _name_sum(tensors: dict[str, Tensor]) -> int:
    return zlib.crc32("\n".join(tensors).encode())


_SIZES = {
    nn.Linear: ("out_features", "in_features"),
    nn.modules.conv._ConvNd: ("out_channels", "in_channels"),
    nn.modules.batchnorm._NormBase: ("num_features",),
}


def _place(model: nn.Module, name: str, old: Tensor, value: Tensor) -> None:
    """Put a tensor into the model, resizing the layer where units were removed."""
    if value.shape == old.shape:
        with torch.no_grad():
            old.copy_(value)
        return
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    attributes = next((a for kind, a in _SIZES.items() if isinstance(module, kind)), None)
    if attributes is None or getattr(module, "groups", 1) != 1:
        raise InputError(
            f"{name} has shape {tuple(value.shape)} in the file and {tuple(old.shape)} in the "
            f"model; {type(module).__name__} cannot be resized, give a model of that shape"
        )
    if getattr(module, "transposed", False):
        attributes = attributes[::-1]
    if leaf == "weight" or len(attributes) == 1:
        for attribute, size in zip(attributes, value.shape, strict=False):
            setattr(module, attribute, size)
    value = value.to(old.device)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, value)
