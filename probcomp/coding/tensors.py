"""The code of one tensor: its shape, its mask, and its values by a codebook or as they are.

Nothing is lost: values come back to the last bit (a negative zero comes back as zero). What makes
a file small is that few values differ, which `probcomp.coding.quantise` sees to.
"""

import math

import numpy as np
import torch
from torch import Tensor

from probcomp.coding.masks import get_mask, put_mask
from probcomp.coding.range_coder import (
    RangeDecoder,
    RangeEncoder,
    SymbolModel,
    get_number,
    put_number,
)
from probcomp.errors import InputError

MOST_VALUES = 256
"""Largest codebook. Tensors with more distinct values are stored as they are."""
_RAW32, _RAW16, _BOOK32, _BOOK16, _WHOLE = range(5)
_FORMS = 5


def put_tensor(coder: RangeEncoder, raw: bytearray, tensor: Tensor, where: str) -> None:
    """Write a tensor; values without a codebook go to ``raw``.

    Raises:
        InputError: Values that are not finite, or that float32 does not hold exactly.
    """
    coder.part = "header"
    put_number(coder, tensor.dim())
    for size in tensor.shape:
        put_number(coder, size)
    if not tensor.is_floating_point():
        _put_integers(coder, tensor, where)
        return
    array = as_float32(tensor, where)
    matrix = as_rows(array)
    kept = matrix != 0
    values = matrix[kept]
    with np.errstate(over="ignore"):  # what float16 does not hold becomes infinite, and differs
        short = bool((values.astype(np.float16).astype(np.float32) == values).all())
    book, index = np.unique(values, return_inverse=True)
    width = 16 if short else 32
    counts = np.bincount(index.ravel(), minlength=1)
    chosen = 0 < len(book) <= MOST_VALUES and _book_bits(counts, width) < width * len(values)
    form = (_BOOK16 if short else _BOOK32) if chosen else (_RAW16 if short else _RAW32)
    coder.put(form, 1, _FORMS)
    if kept.size:
        coder.part = "mask"
        put_mask(coder, kept, cell_of(tensor.shape), tensor.shape[-1] if tensor.dim() > 2 else 0)
    if not chosen:
        coder.part = "header"
        raw += values.astype("<f2" if short else "<f4").tobytes()
        return
    coder.part = "codebook"
    put_number(coder, len(book) - 1)
    words = book.astype("<f2" if short else "<f4").view("<u2").tolist()
    for word in words:
        coder.put(word, 1, 1 << 16)
    coder.part = "values"
    model = SymbolModel(len(book))
    for symbol in index.ravel().tolist():
        model.put(coder, symbol)


def get_tensor(coder: RangeDecoder, raw: memoryview, like: Tensor) -> tuple[Tensor, int]:
    """Read what `put_tensor` wrote.

    Args:
        coder: where from.
        raw: values stored as they are, from this tensor's on.
        like: the model's tensor: its type is used, and no dimension may be larger than its own.

    Returns:
        The tensor, and how many bytes of ``raw`` it took.

    Raises:
        InputError: The tensor does not fit the model's, its values are not finite or not of its
            type, or the data end early.
    """
    rank = get_number(coder)
    if rank != like.dim():
        raise InputError(f"the file holds {rank} dimensions, the model has {like.dim()}")
    shape = tuple(get_number(coder) for _ in range(rank))
    if any(size > most for size, most in zip(shape, like.shape, strict=True)):
        raise InputError(f"the file holds shape {shape}, more than the model's {tuple(like.shape)}")
    if not like.is_floating_point():
        return _get_integers(coder, shape, like.dtype), 0
    matrix = as_rows(np.zeros(shape, np.float32))
    rows, columns = matrix.shape
    form = coder.peek(_FORMS)
    coder.take(form, 1)
    if form not in (_RAW32, _RAW16, _BOOK32, _BOOK16):
        raise InputError("the file holds whole numbers, the model has real ones")
    kind = "<f2" if form in (_RAW16, _BOOK16) else "<f4"
    kept = get_mask(coder, rows, columns, cell_of(shape)) if matrix.size else matrix != 0
    count = int(kept.sum())
    taken = 0
    if form in (_RAW32, _RAW16):
        taken = count * np.dtype(kind).itemsize
        if len(raw) < taken:
            raise InputError(f"the file ends early: {taken} bytes of values are missing")
        values = np.frombuffer(raw[:taken], kind)
    else:
        size = get_number(coder) + 1
        if size > MOST_VALUES:
            raise InputError(f"a codebook of {size} values, expected at most {MOST_VALUES}")
        words = np.zeros(size * np.dtype(kind).itemsize // 2, "<u2")
        for place in range(len(words)):
            words[place] = coder.peek(1 << 16)
            coder.take(int(words[place]), 1)
        model = SymbolModel(size)
        index = np.fromiter((model.get(coder) for _ in range(count)), np.int64)
        values = words.view(kind)[index]
    matrix[kept] = values.astype(np.float32)
    found = torch.from_numpy(matrix.reshape(shape)).to(like.dtype)
    if not torch.isfinite(found.float()).all():
        raise InputError(f"the file holds values that are not finite numbers of {like.dtype}")
    return found, taken


def as_rows(array: np.ndarray) -> np.ndarray:
    """[out, everything else]; vectors and numbers become one row."""
    if array.ndim < 2:
        return array.reshape(1, -1)
    return array.reshape(len(array), math.prod(array.shape[1:]))  # also where there are no rows


def cell_of(shape: tuple[int, ...]) -> int:
    """Weights of one kernel of a convolution, 1 for other tensors."""
    return math.prod(shape[2:])


def as_float32(tensor: Tensor, where: str) -> np.ndarray:
    """The values as float32, if that loses nothing."""
    single = tensor.detach().cpu().float()
    if not torch.isfinite(single).all():
        raise InputError(f"{where} holds NaN or infinite values; there is nothing to store")
    if tensor.dtype == torch.float64 and not torch.equal(single.double(), tensor.detach().cpu()):
        raise InputError(f"{where} is float64 and does not fit float32; call model.float() first")
    return single.numpy()


def _book_bits(counts: np.ndarray, width: int) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(counts[counts > 0] * np.log2(share)).sum() + width * len(share))


def _put_integers(coder: RangeEncoder, tensor: Tensor, where: str) -> None:
    if tensor.is_complex():
        raise InputError(f"{where} is complex; only real tensors can be stored")
    coder.put(_WHOLE, 1, _FORMS)
    for value in tensor.detach().cpu().to(torch.int64).flatten().tolist():
        put_number(coder, 2 * value if value >= 0 else -2 * value - 1)


def _get_integers(coder: RangeDecoder, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    form = coder.peek(_FORMS)
    coder.take(form, 1)
    if form != _WHOLE:
        raise InputError("the file holds real numbers, the model has whole ones")
    codes = (get_number(coder) for _ in range(math.prod(shape)))
    values = [code // 2 if code % 2 == 0 else -(code + 1) // 2 for code in codes]
    least, most = _range_of(dtype)
    if values and not (least <= min(values) and max(values) <= most):
        raise InputError(f"the file holds whole numbers that {dtype} does not")
    return torch.tensor(values, dtype=torch.int64).reshape(shape).to(dtype)


def _range_of(dtype: torch.dtype) -> tuple[int, int]:
    if dtype == torch.bool:
        return 0, 1
    info = torch.iinfo(torch.int64 if dtype == torch.uint64 else dtype)  # written by way of int64
    return info.min, info.max
