"""Units of an axis against the sum over all sets of units."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.allocation.price import solve_price
from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, Quadratic, ep_group
from probcomp.priors import Chain, ExactK, Independent, Lattice
from probcomp.testing.quadratic import enumerate_groups, group_teacher

ERROR = 0.03  # largest error of a probability on 8 groups of 3: the published prototype's 0.018
SLOPE = 1e-6  # finite differences of exact marginals


def ep(factors, **settings):
    return ep_group(factors, iterations=200, tolerance=1e-8, **settings)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_eight_groups_of_three_against_enumeration(correlation: float) -> None:
    errors = []
    for seed in range(4):
        teacher = group_teacher(rows=24, slab=100.0, correlation=correlation, seed=seed)
        exact = enumerate_groups([teacher.factor]).probability
        errors.append(float((ep([teacher.factor]).probability - exact).abs().max()))
    assert max(errors) < ERROR


@pytest.mark.parametrize("prior", [Independent(0.2), Chain(0.2, 0.4), Lattice(-0.3, 0.8)], ids=repr)
def test_any_prior_over_the_units(prior) -> None:
    errors = []
    for seed in range(4):
        teacher = group_teacher(rows=16, slab=100.0, correlation=1.0, seed=10 + seed)
        result = ep([teacher.factor], prior=prior)
        if isinstance(prior, Lattice):  # a vector of units is one row of a lattice
            reference = Rows(prior)
        else:
            reference = prior
        exact = enumerate_groups([teacher.factor], prior=reference).probability
        errors.append(float((result.probability - exact).abs().max()))
    assert np.mean(errors) < ERROR
    assert max(errors) < 2 * ERROR  # a coupled prior ties the units that Gaussian sites separate


def test_a_fixed_count_is_approximate_but_ranks_right() -> None:
    """One unit's gain is another's loss, which no product of sites can say: errors reach 0.15."""
    for seed in range(4):
        teacher = group_teacher(rows=16, slab=100.0, correlation=1.0, seed=10 + seed)
        result = ep([teacher.factor], prior=ExactK(4))
        exact = enumerate_groups([teacher.factor], prior=ExactK(4)).probability
        assert float(result.probability.sum()) == pytest.approx(4, abs=1e-6)
        assert float((result.probability - exact).abs().max()) < 0.2
        assert set(result.probability.topk(4).indices.tolist()) == set(
            exact.topk(4).indices.tolist()
        )


class Rows:
    """A lattice on ``[..., 1, G]`` seen as a prior over the last dimension."""

    def __init__(self, prior: Lattice) -> None:
        self.prior = prior

    def log_prob(self, supports):
        return self.prior.log_prob(supports.unsqueeze(-2))


def test_several_consumers_share_their_units() -> None:
    """Evidence adds; one consumer reads single columns, the other pairs, with a column of none."""
    errors = []
    for seed in range(4):
        first = group_teacher(groups=7, width=1, rows=12, slab=30.0, correlation=1.0, seed=seed)
        second = group_teacher(groups=8, width=2, rows=12, slab=80.0, correlation=0.5, seed=seed)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        factors = [first.factor, GroupFactor(second.quadratic, second.columns[order], 80.0)]
        bias = torch.linspace(-1, 1, 7, dtype=torch.double)
        exact = enumerate_groups(factors, bias=bias).probability
        errors.append(float((ep(factors, field=bias).probability - exact).abs().max()))
    assert np.mean(errors) < ERROR
    assert max(errors) < 0.05  # measured 0.033


def test_permuting_units_and_columns_permutes_the_answer() -> None:
    teacher = group_teacher(correlation=1.0, seed=5)
    base = ep([teacher.factor])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = ep([GroupFactor(teacher.quadratic, teacher.columns[order], teacher.slab)])
    torch.testing.assert_close(moved.evidence, base.evidence[order], rtol=1e-7, atol=1e-7)
    mixed = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    quadratic = teacher.quadratic
    shuffled = Quadratic(quadratic.weight[:, mixed], quadratic.gram[mixed][:, mixed], 0.0)
    back = torch.argsort(mixed)[teacher.columns]
    again = ep([GroupFactor(shuffled, back, teacher.slab)])
    torch.testing.assert_close(again.evidence, base.evidence, rtol=1e-7, atol=1e-7)


def test_rotating_outputs_changes_nothing() -> None:
    """Rows enter by sums only, so a square root of any output metric serves."""
    teacher = group_teacher(correlation=1.0, rows=6, seed=6)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())[
        0
    ]
    turned = Quadratic(turn @ teacher.quadratic.weight, teacher.quadratic.gram, 0.0)
    base = ep([teacher.factor])
    again = ep([GroupFactor(turned, teacher.columns, teacher.slab)])
    torch.testing.assert_close(again.evidence, base.evidence, rtol=1e-7, atol=1e-7)


def test_a_warm_start_ends_where_a_cold_start_ends() -> None:
    teacher = group_teacher(groups=20, correlation=1.0, tokens=120, seed=7)
    cost = torch.linspace(1, 2, 20, dtype=torch.double)
    free = ep([teacher.factor], cost=cost)
    cold = ep([teacher.factor], cost=cost, price=3.0)
    warm = ep([teacher.factor], cost=cost, price=3.0, start=free)
    torch.testing.assert_close(warm.probability, cold.probability, rtol=0, atol=1e-5)
    again = ep_group([teacher.factor], cost=cost, start=cold)
    assert again.iterations == 1
    assert again.price == 3.0


def test_a_named_slab_takes_the_place_of_the_warm_starts() -> None:
    teacher = group_teacher(correlation=1.0, seed=7)
    other = GroupFactor(teacher.quadratic, teacher.columns, 4 * teacher.slab)
    cold, warm = ep([other]), ep([other], start=ep([teacher.factor]))
    assert warm.slabs == (other.slab,)
    torch.testing.assert_close(warm.probability, cold.probability, rtol=0, atol=1e-5)


def test_a_warm_start_keeps_prior_field_and_cost() -> None:
    teacher = group_teacher(correlation=1.0, seed=7)
    settings_ = {"prior": Chain(0.2, 0.4), "field": 0.5, "cost": 2.0}
    first = ep_group([teacher.factor], **settings_)
    short = ep_group([teacher.factor], price=1.0, start=first)
    full = ep_group([teacher.factor], price=1.0, start=first, **settings_)
    assert torch.equal(short.log_odds, full.log_odds)
    assert short.prior == Chain(0.2, 0.4)


@pytest.mark.parametrize("prior", [None, Independent(0.3), Chain(0.2, 0.4)], ids=repr)
def test_expected_cost_falls_with_slope_minus_variance(prior) -> None:
    """On exact marginals ``dE[c]/dprice = -Var(c)``; evidence held, so no inverse is taken."""
    teacher = group_teacher(rows=4, seed=8)
    cost = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0, 1.5, 0.0, 2.0], dtype=torch.double)
    result = ep([teacher.factor], prior=prior, cost=cost)
    supports = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 8)
    for price in (0.0, 0.5, 2.0):
        score = supports @ (result.evidence - price * cost)
        if prior is not None:
            score = score + prior.log_prob(supports)
        weight, total = torch.softmax(score, 0), supports @ cost
        mean = weight @ total
        variance = float(weight @ (total - mean).square())
        assert result.expected_cost(price) == pytest.approx(float(mean), abs=1e-9)
        step = 1e-4
        slope = result.expected_cost(price + step) - result.expected_cost(price - step)
        assert slope / (2 * step) == pytest.approx(-variance, abs=SLOPE)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), low=st.floats(0, 5), high=st.floats(0, 5))
def test_a_higher_price_never_costs_more(seed: int, low: float, high: float) -> None:
    teacher = group_teacher(groups=6, width=1, rows=2, seed=seed)
    result = ep_group([teacher.factor], cost=1.5)
    low, high = min(low, high), max(low, high)
    assert result.expected_cost(high) <= result.expected_cost(low) + 1e-12


def test_one_price_for_several_axes() -> None:
    results = [
        ep_group([group_teacher(groups=g, rows=r, seed=g).factor], cost=c)
        for g, r, c in ((8, 8, 3.0), (6, 4, 1.0))
    ]

    def total(price: float) -> float:
        return sum(result.expected_cost(price) for result in results)

    budget = 0.5 * total(0.0)
    solved = solve_price(total, budget)
    assert solved.binding
    assert (
        budget * 0.998
        <= sum(float((r.at_price(solved.value).probability * r.cost).sum()) for r in results)
        <= budget
    )


def test_at_price_is_the_first_belief_of_an_inference_at_that_price() -> None:
    teacher = group_teacher(groups=10, correlation=1.0, seed=9)
    free = ep([teacher.factor], prior=Chain(0.2, 0.4))
    moved = free.at_price(2.0)
    assert moved.price == 2.0
    first = ep_group([teacher.factor], prior=Chain(0.2, 0.4), price=2.0, start=free, iterations=1)
    torch.testing.assert_close(moved.log_odds, first.log_odds, rtol=1e-6, atol=1e-6)


def test_what_the_price_removes_makes_its_twin_needed() -> None:
    """Two columns that carry one signal: half of each is cheap, both together are not."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(400, 2, generator=generator, dtype=torch.double)
    x = torch.cat([signal, signal + 0.05 * torch.randn(400, 2, generator=generator).double()], 1)
    weight = torch.ones(3, 4, dtype=torch.double)
    factor = GroupFactor(Quadratic(weight, x.T @ x), torch.arange(4)[:, None], 1.0)
    free = ep([factor])
    result = ep([factor], price=60.0, start=free)
    kept = result.probability > 0.5
    assert int(kept[[0, 2]].sum()) == int(kept[[1, 3]].sum()) == 1
    # The survivor of each pair is far above the price; together they were below it.
    assert bool((free.evidence < 60.0).all())
    assert bool((result.evidence[kept] > 200.0).all())


@pytest.mark.parametrize("width", [1, 3])
def test_float32_agrees_with_float64(width: int) -> None:
    teacher = group_teacher(width=width, correlation=1.0, tokens=200, seed=11)
    double = ep_group([teacher.factor], iterations=30)
    quadratic = teacher.quadratic
    single = Quadratic(quadratic.weight.float(), quadratic.gram.float(), 0.0)
    result = ep_group([GroupFactor(single, teacher.columns, teacher.slab)], iterations=30)
    assert result.probability.dtype == torch.float32
    # Condition number 25 * 200: evidence of tens of nats to 1e-3.
    torch.testing.assert_close(result.probability.double(), double.probability, rtol=0, atol=1e-3)


def test_units_that_everything_needs_take_one_inverse() -> None:
    """Pretrained weights start as kept, so a layer without spare units is settled at once."""
    teacher = group_teacher(density=1.0, tokens=5000, rows=20, seed=12)
    result = ep_group([teacher.factor])
    assert result.iterations == 1
    assert result.converged
    assert bool((result.evidence > 100).all())


def test_learning_the_density_of_units() -> None:
    teacher = group_teacher(groups=120, width=2, density=0.2, tokens=1500, slab=60.0, seed=13)
    result = ep_group([teacher.factor], prior=Independent(0.5), learn=True, iterations=60)
    assert isinstance(result.prior, Independent)
    true = float(teacher.support.double().mean())
    assert result.prior.density == pytest.approx(true, abs=0.05)


FACTOR = group_teacher().factor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep_group([]), "at least one"),
        (lambda: ep_group(FACTOR), "sequence"),
        (lambda: ep_group([FACTOR, group_teacher(groups=4).factor]), r"\[4, 8\]"),
        (lambda: ep_group([FACTOR], field=torch.zeros(3)), r"field .* \(8,\)"),
        (lambda: ep_group([FACTOR], field=math.nan), "field holds NaN"),
        (lambda: ep_group([FACTOR], cost=-1.0), "negative"),
        (lambda: ep_group([FACTOR], price=math.inf), "price"),
        (lambda: ep_group([FACTOR], iterations=0, damping=1.0), "iterations.*damping"),
        (lambda: ep_group([FACTOR], tolerance=0.0), "tolerance"),
        (lambda: ep_group([FACTOR], learn=True), "learn needs a prior"),
        (lambda: ep_group([FACTOR], prior=Independent(0.5), price=1.0, learn=True), "price of 0"),
        (lambda: ep_group([FACTOR], start=ep_group([group_teacher(groups=4).factor])), "4 units"),
        (lambda: ep_group([FACTOR] * 2, start=ep_group([FACTOR])), "warm start is for consumers"),
        (lambda: ep_group([FACTOR], prior=0.5), "support prior"),
        (lambda: GroupFactor(FACTOR.quadratic, FACTOR.columns, -1.0), "slab"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
