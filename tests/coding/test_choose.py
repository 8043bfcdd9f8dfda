"""The choice of a price: the highest that a measure bears."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.coding import choose, coarsest, quantise
from probcomp.coding.quantise import Quantised
from tests.coding.problem import loss, problem


def test_the_coarsest_price_within_the_tolerance_is_found():
    model, batches = problem()
    prices = tuple(10.0**k for k in range(-6, 2))
    rise = [loss(quantise(model, p).model, batches) - loss(model, batches) for p in prices]
    tolerance = 0.02
    bearable = [p for p, r in zip(prices, rise) if r <= tolerance]
    choice = coarsest(model, lambda m: loss(m, batches), tolerance, prices=prices)
    assert choice.within
    assert choice.price in bearable
    assert choice.after <= choice.before + tolerance
    # Rises grow with the price here, so bisection finds the last that is bearable.
    assert rise == sorted(rise)
    assert choice.price == bearable[-1]


def test_no_price_within_the_tolerance_is_said():
    model, batches = problem(64)
    choice = coarsest(model, lambda m: loss(m, batches), -1.0, prices=(0.1, 1.0))
    assert not choice.within
    assert choice.price == 0.1


@given(st.integers(1, 30), st.integers(-1, 30))
def test_bisection_finds_the_last_price_that_is_borne(prices, last):
    """On any measure that rises with the price, with few measurements."""
    table, asked = tuple(float(k) for k in range(prices)), []
    model = nn.Linear(1, 1)

    def quantised(given: nn.Module, price: float, importance: object) -> Quantised:
        asked.append(price)
        return Quantised(nn.Linear(1, 1), {"price": price}, {})

    def measure(candidate: nn.Module) -> float:
        return 0.0 if candidate is model else float(asked[-1] > last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "quantise", quantised)
        choice = coarsest(model, measure, 0.5, prices=table)
    borne = [p for p in table if p <= last]
    assert choice.within == bool(borne)
    assert choice.price == (borne[-1] if borne else 0.0)
    assert choice.quantised.books["price"] == choice.price
    assert len(asked) <= prices.bit_length() + 1


def test_candidates_are_finished_before_they_are_measured():
    model, batches = problem(64)
    finished = []

    def finish(candidate: Quantised) -> Quantised:
        finished.append(candidate)
        return candidate

    choice = coarsest(model, lambda m: loss(m, batches), 1e9, finish=finish, prices=(0.01, 0.1))
    assert any(choice.quantised is candidate for candidate in finished)
    assert choice.price == 0.1
