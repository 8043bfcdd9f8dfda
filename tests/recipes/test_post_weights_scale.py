"""The scale of the evidence against models in which its likelihood is known."""

import pytest
import torch

from probcomp.inference.quadratic import Quadratic, refit
from probcomp.recipes import post_weights_scale
from probcomp.recipes.post_weights import WeightsConfig, run
from probcomp.recipes.post_weights_scale import evidence_scale, first_scale, single_costs
from tests.recipes.jobs import job


def test_it_has_the_highest_likelihood_of_weights_drawn_at_a_scale() -> None:
    """Removed weights that are draws from N(0, A^-1 / s): the evidence finds s."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    gram, true = x.T @ x, 40.0
    root = torch.linalg.cholesky(gram)
    noise = torch.randn(8, 4000, generator=generator, dtype=torch.float64)
    weights = torch.linalg.solve_triangular(root.T, noise, upper=True).T / true**0.5
    loss = Quadratic(weights, gram, 0.0).loss_increase(torch.zeros_like(weights) - weights)
    found = evidence_scale(weights.numel(), loss)
    assert found == pytest.approx(true, rel=0.03)

    def likelihood(scale: float) -> float:
        return 0.5 * weights.numel() * float(torch.tensor(scale).log()) - scale * loss

    assert likelihood(found) > max(likelihood(0.9 * found), likelihood(1.1 * found))


def test_where_nothing_goes_or_costs_there_is_none() -> None:
    assert evidence_scale(0, 3.0) is None
    assert evidence_scale(5, 0.0) is None
    assert first_scale([torch.zeros(3, 3)], 0.5) == 1.0


def test_single_costs_are_those_of_removing_one_weight_and_refitting() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    quadratic = Quadratic(weight, x.T @ x, 0.0)
    rows = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    costs = single_costs(quadratic, rows, widest=5)
    wide = single_costs(quadratic, rows, widest=4)
    for row in range(3):
        for column in range(5):
            mask = torch.ones(3, 5, dtype=torch.bool)
            mask[row, column] = False
            wanted = rows[row] * quadratic.loss_increase(refit(quadratic, mask) - weight)
            assert float(costs[row, column]) == pytest.approx(float(wanted), rel=1e-6)
            plain = rows[row] * quadratic.loss_increase(weight * mask - weight)
            assert float(wide[row, column]) == pytest.approx(float(plain), rel=1e-6)
    assert bool((wide >= costs).all())
    assert torch.equal(single_costs(quadratic, None, widest=5) * rows[:, None], costs)


def test_wide_layers_are_not_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("an inverse of a wide layer")

    monkeypatch.setattr("probcomp.recipes.post_weights_scale.inverse", refused)
    quadratic = Quadratic(torch.ones(2, 5), torch.eye(5), 0.0)
    assert torch.equal(single_costs(quadratic, None, widest=4), torch.full((2, 5), 0.5))
    with pytest.raises(AssertionError, match="wide layer"):
        single_costs(quadratic, None, widest=5)


def test_costs_alone_are_no_bound_of_the_cost_together() -> None:
    """Two weights: together 1 + r, alone (1 - r^2) / 2 each; the sum may be on either side."""
    for r, above in ((0.9, False), (-0.5, True)):
        gram = torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)
        quadratic = Quadratic(torch.ones(1, 2, dtype=torch.float64), gram, 0.0)
        singles = float(single_costs(quadratic, None, widest=2).sum())
        assert singles == pytest.approx(1 - r * r)
        together = quadratic.loss_increase(-quadratic.weight)
        assert together == pytest.approx(1 + r)
        assert (singles > together) is above


def test_the_first_scale_is_that_of_the_cheapest() -> None:
    costs = [torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0], [100.0]])]
    assert first_scale(costs, 0.5) == pytest.approx(2 / (2 * 3.0))
    assert first_scale(costs, 0.01) == pytest.approx(1 / 2.0)


@pytest.mark.parametrize("share", [0.003, 0.4, 0.77, 1.0])
def test_many_costs_are_counted_as_if_they_were_sorted(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    costs = [
        size * torch.randn(40, 50, generator=generator).exp().pow(4) for size in (1e-6, 1.0, 1e9)
    ]
    costs[1][0, :7] = 0
    every = torch.cat([c.flatten() for c in costs]).double().sort().values
    count = round(share * len(every))
    wanted = count / (2 * float(every[:count].sum()))
    assert first_scale(iter(costs), share) == pytest.approx(wanted, rel=1e-12)
    monkeypatch.setattr(post_weights_scale, "SORTED", 5000)  # the last layer goes beyond
    counted = first_scale(iter(costs), share)
    assert counted == pytest.approx(wanted, rel=2e-3)
    assert counted == first_scale(iter(costs), share)


@pytest.mark.parametrize("budget", ["params=0.2", "params=0.4", "params=0.7"])
def test_masks_of_a_budget_ask_for_the_scale_that_made_them(budget: str) -> None:
    """One step from a guess: not the point where both agree, but within one half of it here."""
    meta = run(job(budget, config=WeightsConfig(measured=16))).posterior.meta
    assert meta["scale"] > 1
    assert 1 / 1.5 < meta["scale_of_masks"] / meta["scale"] < 1.5


def test_a_scale_that_is_given_stays_and_what_the_masks_ask_for_is_said() -> None:
    settings = {"measured": 16, "iterations": 5}
    meta = run(job("params=0.4", config=WeightsConfig(scale=7.0, **settings))).posterior.meta
    assert meta["scale"] == 7.0
    assert meta["scale_of_masks"] > 2 * 7.0
