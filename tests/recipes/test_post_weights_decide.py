"""Which weights stay, given what is known about them."""

import pytest
import torch

from probcomp.errors import BudgetError, InputError
from probcomp.inference.quadratic import Quadratic
from probcomp.priors import Blocks, Independent, Lattice, NofM
from probcomp.recipes.post_weights_config import WeightsConfig
from probcomp.recipes.post_weights_decide import (
    Belief,
    believe,
    check_pattern,
    check_prior,
    choose,
    continued,
    is_coupled,
    is_pattern,
    masks_of_sign,
    solve,
)

CONFIG = WeightsConfig(iterations=20)


def beliefs(scale: float = 1.0) -> dict[str, Belief]:
    generator = torch.Generator().manual_seed(0)

    def one(rows: int, columns: int) -> Belief:
        x = torch.randn(50, columns, generator=generator, dtype=torch.float64)
        weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        quadratic = Quadratic(weight, scale * x.T @ x)
        return believe(quadratic, None, None, field=0.0, config=CONFIG)

    return {"a": one(6, 10), "b": one(8, 5)}


@pytest.mark.parametrize("allowed", [20.0, 55.0, 95.0])
def test_the_price_spends_the_budget_over_layers_of_different_costs(allowed: float) -> None:
    found, costs = beliefs(), {"a": 1.0, "b": 2.0}
    price, odds = solve(found, None, costs, allowed, CONFIG)
    masks = masks_of_sign(odds, None)
    spent = sum(costs[n] * int(m.sum()) for n, m in masks.items())
    assert allowed - 2 <= spent <= allowed
    for name, mask in masks.items():
        assert torch.equal(mask, found[name].evidence > price * costs[name])


def test_a_budget_that_allows_all_keeps_all() -> None:
    price, odds = solve(beliefs(), None, {"a": 1.0, "b": 1.0}, 100.0, CONFIG)
    assert all(bool((o > 0).all()) for o in odds.values())
    assert price <= 0


def test_patterns_have_no_price() -> None:
    found = {"a": beliefs()["a"]}
    price, odds = solve(found, NofM(1, 2), {"a": 1.0}, 30.0, CONFIG)
    assert price == 0.0
    mask = masks_of_sign(odds, NofM(1, 2))["a"]
    assert bool((mask.unflatten(-1, (-1, 2)).sum(-1) == 1).all())


def test_the_weight_of_a_row_is_that_of_its_data() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    rows = torch.tensor([3.0], dtype=torch.float64)
    one = believe(Quadratic(weight, x.T @ x), rows, None, field=0.0, config=CONFIG)
    other = believe(Quadratic(weight, 3 * x.T @ x), None, None, field=0.0, config=CONFIG)
    plain = believe(Quadratic(weight, x.T @ x), None, None, field=0.0, config=CONFIG)
    # Both end where probabilities have stopped to move, not at the same number of digits.
    torch.testing.assert_close(one.evidence, other.evidence, rtol=2e-3, atol=1e-3)
    assert bool((one.evidence > 1.5 * plain.evidence).all())


def test_a_state_goes_on_where_data_count_more_and_ends_where_a_new_start_does() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    config = WeightsConfig(iterations=200)
    one, more = (Quadratic(weight, s * x.T @ x) for s in (0.02, 2.0))
    first = believe(one, None, None, field=-2.0, config=config)
    state = continued(first, more, 100.0)
    torch.testing.assert_close(state.site, 100 * first.result.state.site)
    torch.testing.assert_close(state.linear, 100 * first.result.state.linear)
    warm = believe(more, None, None, field=-2.0, config=config, start=state)
    cold = believe(more, None, None, field=-2.0, config=config)
    torch.testing.assert_close(warm.evidence, cold.evidence, rtol=0.05, atol=0.1)
    grew = cold.result.state.site / first.result.state.site
    assert float(grew.max()) < 20  # not a hundredfold: grown sites are only a start
    assert float(grew.min()) < 1
    assert continued(first, one, 1.0) is first.result.state
    assert continued(first, one.single(), 1.0).site.dtype == torch.float32


def test_whole_tiles_are_chosen_by_their_mean() -> None:
    odds = torch.tensor([[5.0, -9.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    mask = choose(odds, Blocks((2, 2), Independent(0.5)), 5)
    assert mask.tolist() == [[False, False, True, True]] * 2


def test_kinds_of_priors() -> None:
    assert is_pattern(NofM(2, 4))
    assert not is_pattern(Lattice(0.0, 1.0))
    assert is_coupled(Lattice(0.0, 1.0))
    assert not is_coupled(Independent(0.3))
    assert not is_coupled(None)


def test_priors_that_do_not_fit_are_refused_by_the_name_of_the_layer() -> None:
    check_prior(NofM(2, 4), {"one": (3, 8)})
    with pytest.raises(InputError, match="does not fit two"):
        check_prior(NofM(2, 4), {"one": (3, 8), "two": (3, 6)})
    with pytest.raises(InputError, match="must be a prior"):
        check_prior("lattice", {"one": (3, 8)})


def test_a_pattern_beyond_the_budget_is_refused_with_what_to_ask_for() -> None:
    shapes, costs = {"one": (3, 8), "two": (2, 4)}, {"one": 1.0, "two": 3.0}
    assert check_pattern(NofM(1, 4), shapes, costs, 12.0, str) == 12.0
    with pytest.raises(BudgetError, match=r"cost 12.*leaves 11; 12\.0"):
        check_pattern(NofM(1, 4), shapes, costs, 11.0, str)
