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
from pathlib import Path

import torch
from torch import Tensor, nn

from probcomp.coding.stream import CodedSize, CodedTensor, get_stream, put_stream
from probcomp.errors import InputError
from probcomp.storage import replacing

MAGIC = b"PCW1"
_HEAD = struct.Struct("<4sI")
_SUM = struct.Struct("<I")


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
    data, tensors = encode_bytes(model)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return CodedSize.of(os.path.getsize(path), tensors)


def coded_size(model: nn.Module) -> CodedSize:
    """What `encode` would write, without writing it."""
    data, tensors = encode_bytes(model)
    return CodedSize.of(len(data), tensors)


def decode(path: Path | str, model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the values that `encode` wrote.

    Args:
        path: The file.
        model: A module of the same architecture, with units not yet removed or removed already.
            Linear layers, convolutions and norms take the sizes in the file.

    Raises:
        InputError: The file is missing, damaged, of another version, or of another architecture.
    """
    body = checked(read_file(path), MAGIC, f"{path}", "coded weights")
    _, names = _HEAD.unpack_from(body)
    model = copy.deepcopy(model)
    tensors = stored_tensors(model)
    if names != _name_sum(tensors):
        raise InputError(
            f"{path} belongs to a model with other tensors; this one has {', '.join(tensors)}"
        )
    try:
        for name, value in get_stream(body[_HEAD.size :], tensors):
            _place(model, name, tensors[name], value)
        _check_agreement(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return model


def read_file(path: Path | str) -> bytes:
    """The content of a file, or `InputError` that names it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def checked(data: bytes, magic: bytes, path: str, what: str) -> bytes:
    """A file's content without the checksum at its end, where that and the first bytes are right.

    Args:
        data: The content.
        magic: Four bytes that it begins with; the last is the version.
        path: Its name, for errors.
        what: What such files hold, for errors.

    Raises:
        InputError: It is another file, of another version, or damaged.
    """
    if len(data) < _HEAD.size + _SUM.size or data[:3] != magic[:3]:
        raise InputError(f"{path} is not a file of {what}")
    if data[:4] != magic:
        raise InputError(
            f"{path} has format version {data[3:4]!r}, expected {magic[3:]!r}; "
            "read it by the release that wrote it"
        )
    body, (expected,) = data[: -_SUM.size], _SUM.unpack(data[-_SUM.size :])
    if zlib.crc32(body) != expected:
        raise InputError(f"{path} is damaged: its checksum does not match; copy it again")
    return body


def summed(body: bytes) -> bytes:
    """A body with its checksum at the end, as `checked` reads it."""
    return body + _SUM.pack(zlib.crc32(body))


def encode_bytes(model: nn.Module) -> tuple[bytes, tuple[CodedTensor, ...]]:
    """The content of the file, and what each tensor costs."""
    tensors = stored_tensors(model)
    if not tensors:
        raise InputError("the model has no parameters; there is nothing to store")
    stream, costs = put_stream(tensors)
    return summed(_HEAD.pack(MAGIC, _name_sum(tensors)) + stream), costs


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
    grouped = getattr(module, "groups", 1) != 1
    if attributes is None or grouped or value.shape[2:] != old.shape[2:]:
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


def _check_agreement(model: nn.Module) -> None:
    """Biases and statistics must be as long as their layer is wide."""
    for path, module in model.named_modules():
        attributes = next((a for kind, a in _SIZES.items() if isinstance(module, kind)), None)
        if attributes is None:
            continue
        width = getattr(module, attributes[0])
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, value in own:
            if value.dim() == 1 and len(value) != width:
                raise InputError(f"{path}.{name} has {len(value)} entries, its layer {width} units")
