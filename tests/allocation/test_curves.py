"""Allocation by one price against enumeration of all counts."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.allocation.curves import allocate
from probcomp.errors import BudgetError

SIZES = {"a": 5, "b": 4, "c": 6}


def curve(seed: int, length: int, convex: bool) -> torch.Tensor:
    steps = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if convex:
        steps = steps.sort().values
    return torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])


def linear(left) -> float:
    return 1.0 * left["a"] + 2.5 * left["b"] + 1.5 * left["c"]


def chain(left) -> float:
    """Two matrices between three layers, as convolutions in a row: costs follow neighbours."""
    return 3 * left["a"] + left["a"] * left["b"] + left["b"] * left["c"] + 2 * left["c"]


def best(curves, cost, allowed) -> float:
    """The least loss of all counts that fit."""
    ranges = [range(len(c)) for c in curves.values()]
    found = math.inf
    for counts in itertools.product(*ranges):
        removed = dict(zip(curves, counts))
        if cost({n: SIZES[n] - m for n, m in removed.items()}) <= allowed:
            found = min(found, sum(float(curves[n][m]) for n, m in removed.items()))
    return found


@given(seed=st.integers(0, 200), share=st.floats(0.3, 0.95), bilinear=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_budget_is_met_within_a_unit_and_the_loss_is_near_the_best(
    seed: int, share: float, bilinear: bool
) -> None:
    cost = chain if bilinear else linear
    curves = {n: curve(seed + i, s - 1, True) for i, (n, s) in enumerate(SIZES.items())}
    allowed = share * cost(SIZES)
    least = dict.fromkeys(SIZES, 1)
    if cost(least) > allowed:
        with pytest.raises(BudgetError):
            allocate(curves, SIZES, cost, allowed)
        return
    found = allocate(curves, SIZES, cost, allowed)
    left = {n: SIZES[n] - m for n, m in found.removed.items()}
    assert cost(left) <= allowed
    for name, m in found.removed.items():  # nothing that went would still fit
        if m:
            assert cost({**left, name: left[name] + 1}) > allowed
    optimum = best(curves, cost, allowed)
    # Integer counts leave a gap of at most one unit of each axis at its steepest.
    slack = sum(float(c.diff().max()) for c in curves.values())
    assert optimum - 1e-12 <= found.loss <= optimum + slack


def test_a_budget_of_everything_removes_nothing() -> None:
    curves = {n: curve(i, s, True) for i, (n, s) in enumerate(SIZES.items())}
    found = allocate(curves, SIZES, linear, linear(SIZES))
    assert set(found.removed.values()) == {0}
    assert found.loss == 0


def test_the_price_is_the_loss_of_the_next_unit_for_its_cost() -> None:
    curves = {"a": torch.arange(6.0).square(), "b": torch.arange(5.0) * 100}
    sizes = {"a": 5, "b": 4}
    found = allocate(curves, sizes, lambda left: left["a"] + left["b"], 6.0)
    assert found.removed == {"a": 3, "b": 0}
    assert 5 <= found.price <= 7  # between the third step of the square (5) and the fourth (7)


def test_out_of_reach_says_what_remains() -> None:
    curves = {n: curve(i, s - 1, True) for i, (n, s) in enumerate(SIZES.items())}
    with pytest.raises(BudgetError, match="remains, but the budget allows 1"):
        allocate(curves, SIZES, linear, 1.0)


def test_units_that_cost_nothing_go_at_a_price_of_nothing() -> None:
    curves = {"a": torch.tensor([0.0, 0.0, 1.0]), "b": torch.tensor([0.0, 2.0])}
    found = allocate(curves, SIZES, lambda left: left["a"] + left["b"], 8)
    assert found.removed == {"a": 1, "b": 0}
    assert found.price <= 1e-30
    assert found.loss == 0
