"""What a budget leaves for single weights."""

import pytest

from probcomp.errors import BudgetError
from probcomp.priors import NofM
from probcomp.recipes.post_weights_budget import allowed_cost, share_gone
from probcomp.recipes.post_weights_layers import layers_of
from tests.recipes.jobs import job

SHAPES = {"one.weight": (24, 6), "two.weight": (12, 24), "three.weight": (3, 12)}
WEIGHTS, BIASES = 24 * 6 + 12 * 24 + 3 * 12, 24 + 12 + 3


def test_what_is_never_masked_is_taken_off() -> None:
    given = job("params=0.5")
    allowed = allowed_cost(given, layers_of(given), SHAPES)
    assert allowed == pytest.approx(0.5 * (WEIGHTS + BIASES) - BIASES)
    in_macs = job("macs=0.5")  # biases cost none
    assert allowed_cost(in_macs, layers_of(in_macs), SHAPES) == pytest.approx(0.5 * WEIGHTS)
    free = job(None)
    assert allowed_cost(free, layers_of(free), SHAPES) is None


def test_budgets_out_of_reach_say_what_to_ask_for() -> None:
    low = job("params=0.01")
    with pytest.raises(BudgetError, match=r"cost 39 of 507; ask for params=0\.077"):
        allowed_cost(low, layers_of(low), SHAPES)
    pattern = job("params=0.3", prior=NofM(1, 2))
    with pytest.raises(BudgetError, match=r"ask for params=0\.539"):
        allowed_cost(pattern, layers_of(pattern), SHAPES)


def test_a_budget_in_what_was_not_counted_is_refused() -> None:
    for uses in ({}, {"one.weight": 0.0}):
        given = job("macs=0.5", uses=uses)
        with pytest.raises(BudgetError, match="no multiply-accumulates were counted"):
            allowed_cost(given, layers_of(given), SHAPES)


def test_the_share_that_goes_is_that_of_the_budget() -> None:
    costs, sizes = {"a": 1.0, "b": 3.0}, {"a": 10, "b": 10}
    assert share_gone(10.0, costs, sizes) == pytest.approx(0.75)
    assert share_gone(99.0, costs, sizes) == pytest.approx(1 / 20)  # at least one weight
    assert share_gone(None, costs, sizes) == 0.5
    assert share_gone(1.0, dict.fromkeys(costs, 0.0), sizes) == 0.5
