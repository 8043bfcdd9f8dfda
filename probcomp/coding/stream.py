"""Tensors one behind the other: one range coder over all, then the values that have no codebook.

What each part of each tensor costs is kept, so that a size can be explained to the bit.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.coding.range_coder import RangeDecoder, RangeEncoder
from probcomp.coding.tensors import get_tensor, put_tensor
from probcomp.errors import InputError

PARTS = ("mask", "values", "codebook", "raw", "header")
MOST_DIMENSIONS = 32
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class CodedTensor:
    """What one tensor costs in a file.

    Attributes:
        name: Its name in the model.
        shape: Its shape.
        nonzero: Entries that are not zero.
        distinct: Distinct values among them.
        bits: Bits of each of `PARTS`: ``mask``, ``values`` (codebook indices), ``codebook``,
            ``raw`` (values stored as they are) and ``header`` (shape and form).
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    distinct: int
    bits: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bits of all parts."""
        return sum(self.bits.values())


@dataclass(frozen=True)
class CodedSize:
    """Bytes of a coded model, and the bits of its parts.

    Attributes:
        bytes: Size of the file.
        bits: Bits of ``mask``, ``values``, ``codebook``, ``raw`` and ``header`` over all tensors;
            together they are the file's. ``header`` is the rest: shapes, checksums and, in a file
            that holds the network too, its architecture.
        tensors: The same for each tensor.
    """

    bytes: int
    bits: Mapping[str, float]
    tensors: tuple[CodedTensor, ...] = ()

    @classmethod
    def of(cls, size: int, tensors: tuple[CodedTensor, ...]) -> "CodedSize":
        """The size of a file of ``size`` bytes that holds ``tensors``."""
        parts = {part: sum(t.bits[part] for t in tensors) for part in PARTS[:-1]}
        return cls(size, parts | {"header": 8.0 * size - sum(parts.values())}, tensors)


def put_stream(tensors: Mapping[str, Tensor]) -> tuple[bytes, tuple[CodedTensor, ...]]:
    """The coded tensors, and what each of them costs.

    Raises:
        InputError: Values that are not finite, or that float32 does not hold exactly.
    """
    coder, raw = RangeEncoder(), bytearray()
    costs = []
    for name, tensor in tensors.items():
        before, length = dict(coder.spent), len(raw)
        put_tensor(coder, raw, tensor, name)
        bits = {part: coder.spent.get(part, 0.0) - before.get(part, 0.0) for part in PARTS}
        bits["raw"] = 8.0 * (len(raw) - length)
        values = tensor.detach().flatten()
        values = values[values != 0]
        distinct = int(values.unique().numel())
        costs.append(CodedTensor(name, tuple(tensor.shape), len(values), distinct, bits))
    stream = coder.finish()
    return _LENGTH.pack(len(stream)) + stream + bytes(raw), tuple(costs)


def get_stream(data: bytes, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that `put_stream` wrote.

    Args:
        data: What it wrote.
        like: Tensors of the same names, order and types, none of them smaller; they may be on the
            meta device.

    Raises:
        InputError: The data do not fit ``like``, naming the tensor, or end early.
    """
    if len(data) < _LENGTH.size:
        raise InputError("the coded tensors end early")
    (length,) = _LENGTH.unpack_from(data)
    coder = RangeDecoder(data[_LENGTH.size : _LENGTH.size + length])
    raw = memoryview(data)[_LENGTH.size + length :]
    for name, old in like.items():
        try:
            value, taken = get_tensor(coder, raw, old)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        raw = raw[taken:]
        yield name, value


def zeros_like(shape: list[int], dtype: str) -> Tensor:
    """A tensor without storage, as `get_stream` takes it.

    Raises:
        InputError: A type that no tensor here has, or a shape that is none.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(kind, torch.dtype) or kind.is_complex or "q" in dtype:
        raise InputError(f"unknown type of tensor {dtype!r}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{shape!r} is no shape of a tensor")
    if len(shape) > MOST_DIMENSIONS:
        raise InputError(f"a tensor of {len(shape)} dimensions, expected at most {MOST_DIMENSIONS}")
    return torch.empty(shape, dtype=kind, device="meta")
