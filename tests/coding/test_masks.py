"""Mask codes: round trips, and known lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from probcomp.coding.contexts import KINDS, best_layout
from probcomp.coding.masks import get_line, get_mask, put_line, put_mask
from probcomp.coding.range_coder import RangeDecoder, RangeEncoder
from probcomp.evaluation.regularity import context_code_bits
from tests.coding.strategies import masks


def length(kept: np.ndarray, cell: int = 1) -> int:
    coder = RangeEncoder()
    put_mask(coder, kept, cell)
    return 8 * len(coder.finish())


@given(masks, st.sampled_from([1, 2, 4]))
def test_masks_come_back(kept, cell):
    kept = np.repeat(kept, cell, 1)
    coder = RangeEncoder()
    put_mask(coder, kept, cell, 2)
    assert (get_mask(RangeDecoder(coder.finish()), *kept.shape, cell) == kept).all()


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_lines_come_back(bits):
    coder, bits = RangeEncoder(), np.array(bits)
    put_line(coder, bits)
    assert (get_line(RangeDecoder(coder.finish()), len(bits)) == bits).all()


def test_a_written_mask_is_as_long_as_the_best_layout_says():
    rng = np.random.default_rng(1)
    # Columns of very different density: what the density contexts are for.
    kept = rng.random((100, 120)) < rng.choice([0.02, 0.6], 120)[None]
    kept[0] = kept[:, 0] = True
    kind, _, bits = best_layout(kept, ())
    assert KINDS[kind][1]
    assert bits < 0.95 * context_code_bits(kept)
    # Beside it: no dead row or column (a few bits), the layout's number, and the end of the stream.
    assert bits <= length(kept) <= bits + 48


def test_removed_units_cost_little():
    kept = np.zeros((300, 784), bool)
    kept[np.ix_(range(0, 100), range(200, 400))] = True
    assert length(kept) < 120  # two short lines instead of 235,200 bits


def test_whole_kernels_cost_one_bit_each():
    rng = np.random.default_rng(2)
    cells = rng.random((20, 50)) < 0.5
    kept = np.repeat(cells, 25, 1)
    assert length(kept, 25) <= 1000 + 80  # 1000 independent fair bits
    assert length(kept, 25) < length(kept, 1)


def test_a_period_is_found_in_a_line():
    # A flattened image of 28 x 28 whose columns are kept or not: the pixel above says all.
    columns = np.random.default_rng(3).random(28) < 0.5
    coder = RangeEncoder()
    assert put_line(coder, np.tile(columns, 28)) == 28
    assert 8 * len(coder.finish()) < 784 / 4  # 784 bits without it
