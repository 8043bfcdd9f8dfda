"""Regret that noise does not bias."""

import numpy as np
import pytest


def test_regret_by_hand(module):
    regret = module("_regime_regret")
    errors = np.array([[0.10, 0.20, 0.30], [0.30, 0.10, 0.00], [0.20, 0.20, 0.20]])
    assert regret.plain(errors, 0) == pytest.approx(0.2 - 0.4 / 3)
    # Without the first replicate level 1 is best, without the second too, without the third level
    # 0: differences on the one left out of -.2, .1 and 0.
    assert regret.crossed(errors, 0) == pytest.approx(-0.1 / 3)


def test_the_posterior_is_right_on_average_where_plain_is_too_high(module):
    """Grids as the prior draws them, in standard errors of a mean; an adviser who knows nothing.

    His regret is averaged over the levels he may draw, which leaves less noise than one of them.
    """
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    replicates, rows = 16, []
    for seed in range(300):
        u = generator.random()
        mu = u / (1 - u) * generator.normal(size=7) if u < 0.9 else 9 * generator.normal(size=7)
        errors = mu[:, None] + np.sqrt(replicates) * generator.normal(size=(7, replicates))
        drawn = regret.posterior(errors, seed, draws=400)
        regrets = (
            np.mean([regret.plain(errors, k) for k in range(7)]),
            np.mean([regret.crossed(errors, k) for k in range(7)]),
            np.mean(drawn.mean(1) - drawn.min(1)),
        )
        rows.append([value - (mu.mean() - mu.min()) for value in regrets])
    rows = np.array(rows)
    (plain, crossed, found), error = rows.mean(0), rows.std(0) / np.sqrt(len(rows))
    assert abs(found) < 3 * error[2] < 0.15
    assert plain > 0.4
    assert crossed < -2 * error[1]


def test_the_posterior_follows_a_grid_that_is_well_measured(module):
    regret = module("_regime_regret")
    truth = np.array([3.0, 1.0, 2.0])
    errors = truth[:, None] + 1e-3 * np.random.default_rng(0).normal(size=(3, 50))
    drawn = regret.posterior(errors)
    np.testing.assert_allclose(drawn.mean(0), truth, atol=1e-3)
    assert regret.noise_floor(errors, drawn) == pytest.approx(0, abs=1e-3)


def test_the_floor_is_what_the_best_level_pays_under_plain_counting(module):
    regret = module("_regime_regret")
    replicates = 25
    drawn = np.random.default_rng(0).normal(size=(replicates, 7))
    white = np.linalg.qr(drawn - drawn.mean(0))[0].T  # rows of mean zero and of length one
    errors = np.sqrt(replicates * (replicates - 1)) * white
    np.testing.assert_allclose(np.cov(errors) / replicates, np.eye(7), atol=1e-9)
    same = np.zeros((20_000, 7))  # no level is better
    # The expected largest of seven standard normals is 1.352.
    assert regret.noise_floor(errors, same) == pytest.approx(1.352, abs=0.04)


def test_a_summary_counts_designs_and_loads(module):
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    truth = np.array([[0.10, 0.12], [0.20, 0.20]])
    reference = regret.Reference(truth[..., None] + 1e-4 * generator.normal(size=(2, 2, 30)))
    found = reference.summary([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)])
    assert found["regret_points"] == pytest.approx(0.5, abs=0.01)
    assert found["regret_90"][0] <= found["regret_points"] <= found["regret_90"][1]
    # One design pays nothing, the other one point in the mean.
    assert found["standard_error_over_designs"] == pytest.approx(0.5, abs=0.01)
    assert reference.best(0)[0] == 1
    assert found["least_points"] <= found["regret_points"]


def test_loads_may_have_different_numbers_of_replicates(module):
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    few = np.array([0.10, 0.11])[:, None] + 0.02 * generator.normal(size=(2, 8))
    many = np.array([0.10, 0.11])[:, None] + 0.02 * generator.normal(size=(2, 4000))
    found = regret.Reference([few, many])
    assert found.mu[1].std(0).max() < found.mu[0].std(0).min() / 3
    assert found.summary([(0, 1, 1)])["regret_points"] == pytest.approx(1.0, abs=0.1)
    # Of the load that is known well nobody who is right is charged.
    assert found.least(1) < 1e-6 < found.least(0)
