"""The scale of the evidence against models in which its likelihood is known."""

import pytest
import torch

from probcomp.inference.quadratic import Quadratic, refit
from probcomp.recipes.post_weights import WeightsConfig, run
from probcomp.recipes.post_weights_scale import evidence_scale, first_scale, least_costs
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


def test_least_costs_are_those_of_removing_one_weight_and_refitting() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    quadratic = Quadratic(weight, x.T @ x, 0.0)
    rows = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    costs = least_costs(quadratic, rows)
    for row in range(3):
        for column in range(5):
            mask = torch.ones(3, 5, dtype=torch.bool)
            mask[row, column] = False
            wanted = rows[row] * quadratic.loss_increase(refit(quadratic, mask) - weight)
            assert float(costs[row, column]) == pytest.approx(float(wanted), rel=1e-6)
    assert torch.equal(least_costs(quadratic, None) * rows[:, None], costs)


def test_the_first_scale_is_that_of_the_cheapest() -> None:
    costs = [torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0], [100.0]])]
    assert first_scale(costs, 0.5) == pytest.approx(2 / (2 * 3.0))
    assert first_scale(costs, 0.01) == pytest.approx(1 / 2.0)


def test_the_recipe_finds_the_scale_and_says_it() -> None:
    settings = {"measured": 16, "iterations": 5}
    found = run(job("params=0.4", config=WeightsConfig(**settings))).posterior.meta["scale"]
    fixed = run(job("params=0.4", config=WeightsConfig(scale=7.0, **settings)))
    assert fixed.posterior.meta["scale"] == 7.0
    assert found > 1
    assert found != 7.0
