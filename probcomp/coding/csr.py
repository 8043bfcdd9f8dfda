"""The size that a plain sparse format would take: relative indices beside codebook indices."""

import math

import numpy as np

from probcomp.coding.quantise import Quantised
from probcomp.coding.tensors import as_rows

WIDTHS = (4, 8)
CENTROID_BITS = 16


def csr_bytes(quantised: Quantised) -> int:
    """Bytes of Deep Compression's sparse format (Han, Mao and Dally 2016, section 2).

    Each non-zero takes ``ceil(log2 k)`` bits of codebook index and 4 or 8 bits, whichever is the
    shorter for the tensor, of distance from the non-zero before it; a distance above the largest
    is bridged by fillers, which take both. Codebooks are 16-bit values, and what has no codebook is
    16 bits a value. Rows and columns that are wholly zero are dropped first, as in our own files,
    for a bit each.
    """
    bits = 0
    for name, index in quantised.index.items():
        matrix = as_rows((index >= 0).numpy())
        rows, columns = np.any(matrix, 1), np.any(matrix, 0)
        inner = matrix[np.ix_(rows, columns)]
        values = max(len(quantised.books[name]), 1)
        bits += sum(matrix.shape) + CENTROID_BITS * values
        if inner.all():
            bits += inner.size * math.ceil(math.log2(values))
        else:
            bits += min(index_bits(inner, width, math.ceil(math.log2(values))) for width in WIDTHS)
    coded = set(quantised.index)
    rest = sum(p.numel() for n, p in quantised.model.named_parameters() if n not in coded)
    return -(-(bits + 16 * rest) // 8)


def index_bits(kept: np.ndarray, width: int, value: int) -> int:
    """Bits of the entries of a mask with ``width`` bits of distance and ``value`` bits each."""
    positions = np.flatnonzero(kept)
    zeros = np.diff(positions, prepend=-1) - 1
    entries = len(positions) + int((zeros // 2**width).sum())
    return (width + value) * entries
