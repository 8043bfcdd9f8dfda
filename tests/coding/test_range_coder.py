"""The range coder: round trips, and lengths against the entropy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probcomp.coding.range_coder import (
    LARGEST_TOTAL,
    UNWRITTEN,
    BitModel,
    RangeDecoder,
    RangeEncoder,
    SymbolModel,
    get_number,
    put_number,
)
from probcomp.errors import InputError

SLACK_BITS = 9
"""The last byte is not shared with anything: at most 8 bits, and rounding of the range."""


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10**9)), max_size=300))
def test_symbols_of_any_frequencies_come_back(raw):
    # Each step has its own frequency table (start, size, total), as adaptive models do.
    steps = []
    for size, noise in raw:
        total = size + noise % LARGEST_TOTAL
        total = min(total, LARGEST_TOTAL)
        steps.append((noise % (total - size + 1), size, total))
    encoder = RangeEncoder()
    for start, size, total in steps:
        encoder.put(start, size, total)
    decoder = RangeDecoder(encoder.finish())
    for start, size, total in steps:
        assert start <= decoder.peek(total) < start + size
        decoder.take(start, size)


@pytest.mark.parametrize("value", [0, 1])
def test_carries_run_through_full_bytes(value):
    # Symbols at the very end of the range push the low end against the top, byte after byte.
    encoder = RangeEncoder()
    steps = [(LARGEST_TOTAL - 1, 1, LARGEST_TOTAL)] * 40 + [(value, 1, 2)] * 40
    for step in steps:
        encoder.put(*step)
    decoder = RangeDecoder(encoder.finish())
    for start, size, total in steps:
        assert start <= decoder.peek(total) < start + size
        decoder.take(start, size)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_adaptive_bits_come_back(bits):
    encoder, model = RangeEncoder(), BitModel(4)
    for context, bit in bits:
        model.put(encoder, context, int(bit))
    decoder, model = RangeDecoder(encoder.finish()), BitModel(4)
    assert [model.get(decoder, context) for context, _ in bits] == [int(b) for _, b in bits]


@given(st.integers(1, 20).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1)))))
def test_adaptive_symbols_come_back(case):
    size, symbols = case
    encoder, model = RangeEncoder(), SymbolModel(size)
    for symbol in symbols:
        model.put(encoder, symbol)
    decoder, model = RangeDecoder(encoder.finish()), SymbolModel(size)
    assert [model.get(decoder) for _ in symbols] == symbols


@given(st.lists(st.integers(0, 2**40)))
def test_numbers_come_back(values):
    encoder = RangeEncoder()
    for value in values:
        put_number(encoder, value)
    decoder = RangeDecoder(encoder.finish())
    assert [get_number(decoder) for _ in values] == values


def test_length_is_that_of_the_adaptive_estimator():
    rng = np.random.default_rng(0)
    symbols = rng.choice(5, 4000, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    encoder, model = RangeEncoder(), SymbolModel(5)
    for symbol in symbols.tolist():
        model.put(encoder, symbol)
    # Krichevsky-Trofimov in closed form: Gamma functions of the final counts.
    counts = np.bincount(symbols, minlength=5)
    nats = math.lgamma(len(symbols) + 2.5) - math.lgamma(2.5)
    nats -= sum(math.lgamma(c + 0.5) - math.lgamma(0.5) for c in counts)
    ideal = nats / math.log(2)
    written = 8 * len(encoder.finish())
    assert ideal - 1e-6 <= written <= ideal + SLACK_BITS
    assert encoder.spent[""] == pytest.approx(ideal, rel=1e-9)


def test_nothing_costs_nothing():
    assert RangeEncoder().finish() == b""


def test_counts_are_halved_before_they_overflow():
    model = SymbolModel(3)
    model.counts, model.total = [LARGEST_TOTAL - 5, 1, 1], LARGEST_TOTAL - 3
    encoder = RangeEncoder()
    for symbol in (0, 0, 2, 1):
        model.put(encoder, symbol)
    assert model.total < LARGEST_TOTAL
    assert min(model.counts) >= 1
    again = SymbolModel(3)
    again.counts, again.total = [LARGEST_TOTAL - 5, 1, 1], LARGEST_TOTAL - 3
    decoder = RangeDecoder(encoder.finish())
    assert [again.get(decoder) for _ in range(4)] == [0, 0, 2, 1]


def test_endless_numbers_are_refused():
    with pytest.raises(InputError, match="does not decode"):
        get_number(RangeDecoder(b"\xff" * 40))


@pytest.mark.parametrize("count", [0, 1, 100, 10_000])
def test_zeros_at_the_end_come_back_and_no_more(count):
    encoder = RangeEncoder()
    for _ in range(count):
        encoder.put(0, 1, 256)
    data = encoder.finish()
    assert max(0, count - UNWRITTEN) <= len(data) <= count + 6
    decoder = RangeDecoder(data)
    for _ in range(count):
        assert decoder.peek(256) == 0
        decoder.take(0, 1)

    def read_on() -> None:
        for _ in range(UNWRITTEN + 8):
            decoder.peek(256)
            decoder.take(0, 1)

    with pytest.raises(InputError, match="ends early"):
        read_on()


def test_bytes_that_no_encoder_writes_are_refused():
    with pytest.raises(InputError, match="does not decode"):
        RangeDecoder(b"\xff" * 6).peek(3)
