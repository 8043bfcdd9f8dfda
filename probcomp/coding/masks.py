"""The code of a mask: rows and columns that are wholly zero, then what remains inside."""

import numpy as np

from probcomp.coding.contexts import (
    KINDS,
    Layout,
    Walk,
    all_contexts,
    best_layout,
    code_length,
)
from probcomp.coding.range_coder import (
    BitModel,
    RangeDecoder,
    RangeEncoder,
    get_number,
    put_number,
)
from probcomp.errors import InputError

LONGEST_PERIOD = 64
"""Widest image row that is looked for in the columns of a matrix."""


def put_mask(coder: RangeEncoder, kept: np.ndarray, cell: int, width: int = 0) -> None:
    """Write a boolean matrix.

    Dead rows and columns are removed first; the rest is coded as it is, or, where all ``cell``
    columns of each cell (a convolution's kernel) agree, with one bit for each cell.

    Args:
        coder: where to.
        kept: [rows, columns].
        cell: columns in a cell; 1 where there are none.
        width: columns in a row of a cell, a period that is tried.
    """
    rows, columns = np.any(kept, 1), np.any(kept, 0)
    put_line(coder, rows)
    period = put_line(coder, columns)
    inner = kept[np.ix_(rows, columns)]
    if not inner.size:
        return
    if inner.all():
        coder.put(0, 1, 3)
        return
    periods: tuple[int, ...] = (period, width, cell)
    if cell > 1 and inner.shape[1] % cell == 0:
        cells = inner.reshape(len(inner), -1, cell)
        used = np.any(cells, 2)
        if (used == np.all(cells, 2)).all():
            coder.put(1, 1, 3)
            _put_matrix(coder, used, (period,))
            return
    coder.put(2, 1, 3)
    _put_matrix(coder, inner, periods)


def get_mask(coder: RangeDecoder, rows: int, columns: int, cell: int) -> np.ndarray:
    """Read what `put_mask` wrote; `InputError` where nothing could have written it."""
    alive_rows = get_line(coder, rows)
    alive_columns = get_line(coder, columns)
    kept = np.zeros((rows, columns), bool)
    height, width = int(alive_rows.sum()), int(alive_columns.sum())
    if not height or not width:
        return kept
    form = coder.peek(3)
    coder.take(form, 1)
    if form == 0:
        inner = np.ones((height, width), bool)
    elif form == 1:
        if width % cell:
            raise InputError("the coded stream does not decode: half a kernel")
        inner = np.repeat(_get_matrix(coder, height, width // cell), cell, axis=1)
    else:
        inner = _get_matrix(coder, height, width)
    kept[np.ix_(alive_rows, alive_columns)] = inner
    return kept


def put_line(coder: RangeEncoder, bits: np.ndarray) -> int:
    """Write booleans [n], with the bit before and the bit one period before as context.

    Returns:
        The period that made the code shortest, 0 for none.
    """
    line = bits[None, :]
    lengths = [(code_length(line, all_contexts(line, Layout(2, False, 0))), 0)]
    for period in range(2, min(LONGEST_PERIOD, bits.size - 1) + 1):
        context = all_contexts(line, Layout(2, False, period))
        lengths.append((code_length(line, context) + 12, period))  # 12 bits name the period
    period = min(lengths)[1]
    put_number(coder, period)
    _put_bits(coder, line, Layout(2, False, period))
    return period


def get_line(coder: RangeDecoder, size: int) -> np.ndarray:
    """Read what `put_line` wrote."""
    return _get_bits(coder, 1, size, Layout(2, False, get_number(coder)))[0]


def _put_matrix(coder: RangeEncoder, kept: np.ndarray, periods: tuple[int, ...]) -> None:
    kind, period, _ = best_layout(kept, periods)
    coder.put(kind, 1, len(KINDS))
    put_number(coder, period)
    _put_bits(coder, kept, Layout(*KINDS[kind], period))


def _get_matrix(coder: RangeDecoder, rows: int, columns: int) -> np.ndarray:
    kind = coder.peek(len(KINDS))
    coder.take(kind, 1)
    return _get_bits(coder, rows, columns, Layout(*KINDS[kind], get_number(coder)))


def _put_bits(coder: RangeEncoder, kept: np.ndarray, layout: Layout) -> None:
    model = BitModel(layout.contexts)
    contexts = all_contexts(kept, layout).ravel().tolist()
    for context, bit in zip(contexts, kept.ravel().tolist(), strict=True):
        model.put(coder, context, int(bit))


def _get_bits(coder: RangeDecoder, rows: int, columns: int, layout: Layout) -> np.ndarray:
    model = BitModel(layout.contexts)
    walk = Walk(rows, columns, layout)
    for context in walk:
        walk.tell(model.get(coder, context))
    return np.frombuffer(b"".join(walk.kept), bool).reshape(rows, columns)
