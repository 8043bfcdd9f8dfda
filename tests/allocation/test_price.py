import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.allocation import price_field, solve_price
from probcomp.errors import BudgetError
from probcomp.inference import marginals
from probcomp.priors import Chain, Independent


def chain_cost(log_odds, cost):
    prior = Chain(p01=0.2, p10=0.3)

    def expected(price):
        probability = marginals(prior, log_odds + price_field(cost, price)).probability
        return float((probability * cost).sum())

    return expected


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    log_odds = 3 * torch.randn(10, generator=generator, dtype=torch.float64)
    cost = 1 + torch.rand(10, generator=generator, dtype=torch.float64)
    return log_odds, cost


def test_expected_cost_falls_with_slope_minus_variance(problem):
    """dE[c]/dprice = -Var(c), the variance by enumeration of all supports."""
    log_odds, cost = problem
    supports = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 10)
    price = 0.7
    weight = Chain(p01=0.2, p10=0.3).log_prob(supports) + supports @ (log_odds - price * cost)
    probability = torch.softmax(weight, 0)
    spent = supports @ cost
    mean = probability @ spent
    variance = probability @ (spent - mean) ** 2
    expected = chain_cost(log_odds, cost)
    assert expected(price) == pytest.approx(float(mean), abs=1e-10)
    step = 1e-4
    slope = (expected(price + step) - expected(price - step)) / (2 * step)
    assert slope == pytest.approx(-float(variance), rel=1e-6)


@given(share=st.floats(0.02, 0.98))
def test_bisection_meets_the_budget(share):
    generator = torch.Generator().manual_seed(1)
    log_odds = 3 * torch.randn(40, generator=generator, dtype=torch.float64)

    def expected(price):
        return float(marginals(Independent(0.5), log_odds - price).probability.sum())

    budget = share * expected(0.0)
    price = solve_price(expected, budget)
    assert price.binding
    assert price.cost <= budget
    assert price.cost == pytest.approx(budget, rel=1e-3)


def test_a_budget_that_does_not_bind_costs_nothing(problem):
    expected = chain_cost(*problem)
    price = solve_price(expected, expected(0.0) + 1)
    assert (price.value, price.binding) == (0.0, False)


def test_steps_are_met_from_below():
    price = solve_price(lambda p: 10.0 if p < math.pi else 4.0, 7.0)
    assert price.value == pytest.approx(math.pi)
    assert price.cost == 4.0


def test_out_of_reach_and_not_finite():
    with pytest.raises(BudgetError, match="out of reach"):
        solve_price(lambda p: 5 + math.exp(-p), 4.0)
    with pytest.raises(BudgetError, match="is nan"):
        solve_price(lambda p: math.nan, 4.0)
