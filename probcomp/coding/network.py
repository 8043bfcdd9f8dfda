"""A whole network in one small file: its architecture as text, its tensors coded.

The file: four bytes ``PCN1``; the length of the description; the description, compressed by
DEFLATE; the coded tensors (`probcomp.coding.stream`); a checksum of everything before. The
description is what `probcomp.structure.save` writes beside the tensors, so any model that can be
saved can be coded, and reading needs neither the dense model nor pickle. Tokenizers are left out.
"""

import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.coding.file import checked, read_file, summed
from probcomp.coding.stream import CodedSize, get_stream, put_stream, zeros_like
from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors, replacing, write_json, write_tensors
from probcomp.structure.recipe import MASKS, RECIPE, WEIGHTS, save
from probcomp.structure.recipe import load as load_directory

MAGIC = b"PCN1"
LARGEST_DESCRIPTION = 2**26
"""Bytes of a description that are read; the largest models need thousands."""
_HEAD = struct.Struct("<4sI")
_TEXTS = (RECIPE, "config.json", "generation_config.json")
_TENSORS = (WEIGHTS, "buffers.safetensors")


def write_network(model: nn.Module, path: Path | str) -> CodedSize:
    """Write a model into one file; it is whole or not there.

    Lossless: parameters, buffers and masks come back bit for bit (a negative zero as zero). The
    file is small where few values differ, which `probcomp.coding.quantise` sees to.

    Args:
        model: Any module that `probcomp.structure.save` can write.
        path: The file.

    Returns:
        Its size, and what each tensor costs; the architecture counts as ``header``.

    Raises:
        InputError: A model that cannot be saved, values that are not finite or do not fit float32,
            or a path that cannot be written.
    """
    data, size = network_bytes(model)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    if os.path.getsize(path) != size.bytes:
        raise InputError(f"{path} was changed while it was written")
    return size


def network_bytes(model: nn.Module) -> tuple[bytes, CodedSize]:
    """The content of the file, and its size."""
    with tempfile.TemporaryDirectory(prefix="probcomp-") as folder:
        directory = Path(folder)
        save(model, directory)
        texts = {n: read_json(directory / n) for n in _TEXTS if (directory / n).is_file()}
        held = {n: read_tensors(directory / n) for n in _TENSORS if (directory / n).is_file()}
        for shard in sorted(directory.glob("model-*-of-*.safetensors")):
            held.setdefault(WEIGHTS, {}).update(read_tensors(shard))
        masks = read_tensors(directory / MASKS) if (directory / MASKS).is_file() else {}
    weights = held.get(WEIGHTS, {})
    place = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    held[WEIGHTS] = dict(sorted(weights.items(), key=lambda e: place.get(e[0], len(place))))
    # Most masks are where the weights are not zero, and need no word.
    own = {
        n: m for n, m in masks.items() if n not in weights or not torch.equal(weights[n] != 0, m)
    }
    held[MASKS] = {n: m.half() for n, m in own.items()}
    description = {
        "texts": texts,
        "tensors": {
            file: {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in part.items()}
            for file, part in held.items()
        },
        "masks": sorted(set(masks) - set(own)),
    }
    packed = zlib.compress(json.dumps(description, separators=(",", ":")).encode(), 9)
    # A buffer or a mask may have the name of a weight; labels keep them apart.
    labels = {(f, n): n if f == WEIGHTS else f"{f}: {n}" for f, part in held.items() for n in part}
    stream, costs = put_stream({labels[f, n]: t for f, p in held.items() for n, t in p.items()})
    data = summed(_HEAD.pack(MAGIC, len(packed)) + packed + stream)
    return data, CodedSize.of(len(data), costs)


def read_network(path: Path | str) -> nn.Module:
    """The model that `write_network` wrote: equal outputs, masks in place.

    Raises:
        InputError: The file is missing, damaged, of another version, or names classes that cannot
            be imported here.
    """
    return network_of(read_file(path), str(path))


def network_of(data: bytes, path: str = "the file") -> nn.Module:
    """The model in a file's content; ``path`` is its name in errors."""
    body = checked(data, MAGIC, path, "a coded network")
    _, length = _HEAD.unpack_from(body)
    try:
        description = _inflate(body[_HEAD.size : _HEAD.size + length])
        like = {
            (file, name): zeros_like(shape, dtype)
            for file, part in description["tensors"].items()
            for name, (dtype, shape) in part.items()
        }
        texts, implied = description["texts"], description["masks"]
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(f"{path} has a description that cannot be read: {error}") from error
    names = {f"{file}: {name}": (file, name) for file, name in like}
    tensors: dict[str, dict[str, Tensor]] = {file: {} for file in description["tensors"]}
    try:
        stream = get_stream(body[_HEAD.size + length :], {n: like[k] for n, k in names.items()})
        for label, value in stream:
            file, name = names[label]
            tensors[file][name] = value
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    masks = {n: m.bool() for n, m in tensors.pop(MASKS, {}).items()}
    masks |= {name: tensors[WEIGHTS][name] != 0 for name in implied}
    with tempfile.TemporaryDirectory(prefix="probcomp-") as folder:
        directory = Path(folder)
        for name in (n for n in _TEXTS if n in texts):
            write_json(directory / name, texts[name])
        for name in (n for n in _TENSORS if n in tensors):
            write_tensors(directory / name, tensors[name])
        if masks:
            write_tensors(directory / MASKS, masks)
        return load_directory(directory)


def load(path: Path | str) -> nn.Module:
    """Load a model from a directory that `probcomp.save` wrote, or from one coded file.

    Raises:
        InputError: No such thing, or one that does not load, with the cause.
    """
    return read_network(path) if Path(path).is_file() else load_directory(path)


def _inflate(packed: bytes) -> Any:
    """The description; refused where it would not end, as a damaged or hostile one may not."""
    reader = zlib.decompressobj()
    text = reader.decompress(packed, LARGEST_DESCRIPTION)
    if not reader.eof:
        raise ValueError("it is cut short or too long")
    return json.loads(text)
