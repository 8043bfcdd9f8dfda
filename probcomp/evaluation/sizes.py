"""Sizes of a model: numbers, non-zeros and the bytes of a real encoding."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.errors import InputError

_RAW, _BITMAP, _PACKED = 0, 1, 2


@dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        params: numbers in its parameter tensors, masked zeros included; tied tensors count once.
        nonzero: parameters that are not exactly zero.
        bytes: bytes of `encode` over all parameters, each in its own data type.
        macs: multiply-accumulates for one sample, or ``None`` if not counted.
    """

    params: int
    nonzero: int
    bytes: int
    macs: int | None = None


@dataclass(frozen=True)
class LayerSize:
    """One parameter tensor before and after.

    Attributes:
        name: its name in ``named_parameters`` of the dense model.
        before: its shape in the dense model.
        after: its shape in the compressed model; ``None`` if it was removed whole.
        nonzero_before: its non-zeros in the dense model.
        nonzero_after: its non-zeros in the compressed model.
        bytes_before: encoded bytes in the dense model.
        bytes_after: encoded bytes in the compressed model.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    nonzero_before: int
    nonzero_after: int
    bytes_before: int
    bytes_after: int


def size_of(model: nn.Module, *, macs: int | None = None) -> Size:
    """Sizes of all parameters of ``model``."""
    tensors = [parameter.detach() for _, parameter in model.named_parameters()]
    return Size(
        params=sum(tensor.numel() for tensor in tensors),
        nonzero=sum(int(tensor.count_nonzero()) for tensor in tensors),
        bytes=sum(len(encode(tensor)) for tensor in tensors),
        macs=macs,
    )


def layer_sizes(
    dense: nn.Module, compressed: nn.Module, names: dict[str, str] | None = None
) -> tuple[LayerSize, ...]:
    """Sizes per parameter of ``dense``, matched by name with those of ``compressed``.

    Args:
        dense: the model before.
        compressed: the model after.
        names: dense name to compressed name, for those that differ.
    """
    after = dict(compressed.named_parameters())
    result = []
    for name, parameter in dense.named_parameters():
        other = after.get((names or {}).get(name, name))
        result.append(
            LayerSize(
                name=name,
                before=tuple(parameter.shape),
                after=None if other is None else tuple(other.shape),
                nonzero_before=int(parameter.count_nonzero()),
                nonzero_after=0 if other is None else int(other.count_nonzero()),
                bytes_before=len(encode(parameter)),
                bytes_after=0 if other is None else len(encode(other)),
            )
        )
    return tuple(result)


def encode(tensor: Tensor) -> bytes:
    """The shortest of three plain encodings of a tensor; `decode` reads it.

    Dense values; or the non-zero values and a bitmap of one bit per position; or the same with the
    bitmap compressed by DEFLATE (which profits when zeros cluster). Values keep their data type,
    so quantisation is not part of this figure. A header holds the kind and the bitmap's length.
    """
    values = tensor.detach().cpu().contiguous().flatten()
    raw = _bytes(values)
    kept = values != 0
    bitmap = np.packbits(kept.numpy()).tobytes()
    packed = zlib.compress(bitmap, 6)
    mask, kind = (packed, _PACKED) if len(packed) < len(bitmap) else (bitmap, _BITMAP)
    sparse = mask + _bytes(values[kept])
    if len(sparse) >= len(raw):
        return struct.pack("<BI", _RAW, 0) + raw
    return struct.pack("<BI", kind, len(mask)) + sparse


def decode(data: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` wrote."""
    kind, length = struct.unpack_from("<BI", data)
    body = data[5:]
    if kind == _RAW:
        return _tensor(body, dtype).reshape(shape)
    if kind not in (_BITMAP, _PACKED):
        raise InputError(f"not an encoded tensor: kind {kind}")
    bitmap = zlib.decompress(body[:length]) if kind == _PACKED else body[:length]
    count = int(np.prod(shape, dtype=np.int64))
    kept = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=count).astype(bool)
    values = torch.zeros(count, dtype=dtype)
    values[torch.from_numpy(kept)] = _tensor(body[length:], dtype)
    return values.reshape(shape)


def _bytes(values: Tensor) -> bytes:
    return values.view(torch.uint8).numpy().tobytes() if values.numel() else b""


def _tensor(data: bytes, dtype: torch.dtype) -> Tensor:
    if not data:
        return torch.zeros(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)
