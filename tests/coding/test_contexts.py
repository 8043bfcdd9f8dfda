"""Contexts of the mask code: the reader's are the writer's, and their lengths are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probcomp.coding.contexts import KINDS, Layout, Walk, all_contexts, best_layout, code_length
from probcomp.evaluation.regularity import context_code_bits
from tests.coding.strategies import masks


@given(masks, st.sampled_from(KINDS), st.integers(0, 25))
def test_the_reader_sees_the_contexts_of_the_writer(kept, kind, period):
    layout = Layout(*kind, period)
    walk, seen = Walk(*kept.shape, layout), []
    for context, bit in zip(walk, kept.ravel().tolist(), strict=True):
        seen.append(context)
        walk.tell(int(bit))
    expected = all_contexts(kept, layout)
    assert seen == expected.ravel().tolist()
    assert expected.max() < layout.contexts
    assert (np.array(walk.kept, bool) == kept).all()


def test_neighbour_contexts_cost_what_the_regularity_metric_says():
    kept = np.random.default_rng(0).random((30, 40)) < 0.3
    context = all_contexts(kept, Layout(2, False))
    assert code_length(kept, context) == pytest.approx(context_code_bits(kept), rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_code_length_is_that_of_the_estimator_bit_by_bit(seen):
    """Krichevsky and Trofimov: p(bit) = (n_bit + 1/2) / (n + 1) in its context."""
    counts: dict[tuple[int, bool], int] = {}
    bits = 0.0
    for context, bit in seen:
        n, all_ = counts.get((context, bit), 0), sum(counts.get((context, b), 0) for b in (0, 1))
        bits -= math.log2((n + 0.5) / (all_ + 1))
        counts[context, bit] = n + 1
    contexts = np.array([c for c, _ in seen], np.int64)
    assert code_length(np.array([b for _, b in seen], bool), contexts) == pytest.approx(bits)


def test_contexts_by_hand():
    kept = np.array([[1, 0, 1], [1, 1, 0]], bool)
    neighbours = all_contexts(kept, Layout(2, False)) // 2
    # left + 2 up + 4 up-left
    assert neighbours.tolist() == [[0, 1, 0], [2, 1 + 0 + 4, 1 + 2 + 0]]
    counted = all_contexts(kept, Layout(1, False)) // 2
    assert counted.tolist() == [[0, 1, 0], [1, 2, 2]]
    period = all_contexts(kept, Layout(0, False, 2))
    assert period.tolist() == [[0, 0, 1], [0, 0, 1]]


@given(masks)
def test_the_best_layout_is_no_longer_than_any_other(kept):
    kind, period, bits = best_layout(kept, (2, 3))
    assert bits == pytest.approx(
        code_length(kept, all_contexts(kept, Layout(*KINDS[kind], period)))
    )
    assert all(bits <= code_length(kept, all_contexts(kept, Layout(*k))) + 1e-9 for k in KINDS)
