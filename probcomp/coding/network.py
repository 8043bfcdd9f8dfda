"""A whole network in one small file: its architecture as text, its tensors coded.

The file: four bytes ``PCN1``; the length of the description; the description, compressed by
DEFLATE; the coded tensors (`probcomp.coding.stream`); a checksum of everything before. The
description is what `probcomp.structure.save` writes beside the tensors, so any model that can be
saved can be coded, and reading needs neither the dense model nor pickle. Tokenizers are left out.

DEFLATE begins with a preset dictionary, ``words.json``: the description of a model of common
layers. It halves the descriptions of small networks, which took a third of their files. It is a
part of the format: a file is readable only with the very bytes it was written with.
"""

import json
import math
import os
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass
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
MOST_ELEMENTS = 2**31
"""Entries of all tensors of a file together that are read by default; 8 GiB of float32."""
FEWEST_PARTS = 1024
"""Layers, blocks or experts that a configuration may always ask for, whatever tensors there are."""
_PARTS = re.compile(r"layer|block|expert|depth|stage|stack")
_HEAD = struct.Struct("<4sI")
_WORDS = Path(__file__).with_name("words.json").read_bytes().strip()
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
    texts, held, masks = _saved(model)
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
    packed = _deflate(json.dumps(description, separators=(",", ":")))
    # A buffer or a mask may have the name of a weight; labels keep them apart.
    labels = {(f, n): n if f == WEIGHTS else f"{f}: {n}" for f, part in held.items() for n in part}
    stream, costs = put_stream({labels[f, n]: t for f, p in held.items() for n, t in p.items()})
    data = summed(_HEAD.pack(MAGIC, len(packed)) + packed + stream)
    return data, CodedSize.of(len(data), costs)


def read_network(path: Path | str) -> nn.Module:
    """The model that `write_network` wrote: equal outputs, masks in place.

    Raises:
        InputError: The file is missing, damaged, of another version, describes more than
            `MOST_ELEMENTS` weights, or names classes that cannot be imported here.
    """
    return network_of(read_file(path), str(path))


def network_of(data: bytes, path: str = "the file", most: int = MOST_ELEMENTS) -> nn.Module:
    """The model in a file's content.

    Args:
        data: The content.
        path: Its name in errors.
        most: Entries of all tensors together that are read. A few bytes may describe any number of
            zeros, so this is what bounds memory and time; it is checked before either is spent.

    Raises:
        InputError: See `read_network`.
    """
    body = checked(data, MAGIC, path, "a coded network")
    _, length = _HEAD.unpack_from(body)
    with tempfile.TemporaryDirectory(prefix="probcomp-") as folder:
        try:
            description = _parse(_inflate(body[_HEAD.size : _HEAD.size + length]), most)
            _unpack(description, body[_HEAD.size + length :], Path(folder))
            return load_directory(folder)
        except Exception as error:  # a file from elsewhere may be wrong in any way
            reason = str(error) if isinstance(error, InputError) else f"cannot be read: {error!r}"
            reason = " ".join(reason.replace(folder, path).split())
            raise InputError(f"{path}: {reason}") from error


def least_bytes(model: nn.Module) -> int:
    """Bytes that a file of this model takes whatever becomes of its units and values.

    That is its architecture without tensors, and with one digit in the place of every number.
    """
    texts, _, _ = _saved(model)
    text = re.sub(r"\d+", "0", json.dumps(texts, separators=(",", ":")))
    return len(summed(_HEAD.pack(MAGIC, 0) + _deflate(text)))


def load(path: Path | str) -> nn.Module:
    """Load a model from a directory that `probcomp.save` wrote, or from one coded file.

    Raises:
        InputError: No such thing, or one that does not load, with the cause.
    """
    return read_network(path) if Path(path).is_file() else load_directory(path)


@dataclass(frozen=True)
class _Description:
    """What a file says that it holds: texts by file, tensors on the meta device by file and name,
    and the weights whose masks are where they are not zero."""

    texts: dict[str, dict[str, Any]]
    like: dict[str, dict[str, Tensor]]
    implied: list[str]


def _saved(
    model: nn.Module,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The texts, the tensors by file, and the masks that `save` writes."""
    with tempfile.TemporaryDirectory(prefix="probcomp-") as folder:
        directory = Path(folder)
        save(model, directory)
        texts = {n: read_json(directory / n) for n in _TEXTS if (directory / n).is_file()}
        held = {n: read_tensors(directory / n) for n in _TENSORS if (directory / n).is_file()}
        for shard in sorted(directory.glob("model-*-of-*.safetensors")):
            held.setdefault(WEIGHTS, {}).update(read_tensors(shard))
        masks = read_tensors(directory / MASKS) if (directory / MASKS).is_file() else {}
    return texts, held, masks


def _unpack(description: _Description, stream: bytes, directory: Path) -> None:
    """Write what `save` would have written."""
    names = {f"{f}: {n}": (f, n) for f, part in description.like.items() for n in part}
    like = {label: description.like[f][n] for label, (f, n) in names.items()}
    tensors: dict[str, dict[str, Tensor]] = {file: {} for file in description.like}
    for label, value in get_stream(stream, like):
        file, name = names[label]
        tensors[file][name] = value
    masks = {n: m.bool() for n, m in tensors.pop(MASKS, {}).items()}
    masks |= {name: tensors[WEIGHTS][name] != 0 for name in description.implied}
    for file, text in description.texts.items():
        write_json(directory / file, text)
    for file, held in tensors.items():
        write_tensors(directory / file, held)
    if masks:
        write_tensors(directory / MASKS, masks)


def _parse(description: Any, most: int) -> _Description:
    """The parts of a description; nothing of the size it names is allocated.

    Raises:
        InputError: A part is missing or of another type, or the tensors are too large.
    """
    parts: dict[str, Any] = description if isinstance(description, dict) else {}
    texts: Any = parts.get("texts")
    tensors: Any = parts.get("tensors")
    implied: Any = parts.get("masks")
    if not _is_table(texts, _TEXTS) or not _is_table(tensors, (*_TENSORS, MASKS)):
        raise InputError("has a description that cannot be read: its texts or tensors are damaged")
    like: dict[str, dict[str, Tensor]] = {file: {} for file in tensors}
    total = 0
    for file, part in tensors.items():
        for name, entry in part.items():
            if not isinstance(entry, list) or len(entry) != 2:
                raise InputError(f"has a description that cannot be read: {name} has no type")
            dtype, shape = entry
            if isinstance(shape, list) and all(type(n) is int for n in shape):
                total += math.prod(max(n, 1) for n in shape)
            if total > most:
                raise InputError(f"describes more than {most:,} weights, the most that are read")
            like[file][name] = zeros_like(shape, dtype)
    weights = tensors.get(WEIGHTS, {})
    _check_parts(texts.get("config.json", {}), max(FEWEST_PARTS, len(weights)))
    if not isinstance(implied, list) or not all(isinstance(n, str) for n in implied):
        raise InputError("has a description that cannot be read: its masks are no list of names")
    lost = [name for name in implied if name not in weights]
    if lost:
        raise InputError(f"has a mask of {lost[0]!r}, which it does not hold")
    return _Description(texts, like, implied)


def _check_parts(config: Any, most: int, key: str = "") -> None:
    """A configuration builds its layers before their tensors are looked for, each with one or more.

    Raises:
        InputError: It asks for more of them than the file can fill.
    """
    if isinstance(config, dict):
        for name, value in config.items():
            _check_parts(value, most, str(name))
    elif isinstance(config, list):
        for value in config:
            _check_parts(value, most, key)
    elif type(config) is int and config > most and _PARTS.search(key.lower()):
        raise InputError(
            f"has a configuration with {key} = {config:,}, more than its tensors can fill"
        )


def _is_table(value: Any, files: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(
        name in files and isinstance(part, dict) for name, part in value.items()
    )


def _deflate(text: str) -> bytes:
    writer = zlib.compressobj(9, memLevel=9, zdict=_WORDS)
    return writer.compress(text.encode()) + writer.flush()


def _inflate(packed: bytes) -> Any:
    """The description; refused where it would not end, as a damaged or hostile one may not."""
    reader = zlib.decompressobj(zdict=_WORDS)
    text = reader.decompress(packed, LARGEST_DESCRIPTION)
    if not reader.eof:
        raise InputError("has a description that is cut short or too long")
    return json.loads(text)
