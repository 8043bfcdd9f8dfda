"""The adviser who is told the law of a task."""

import numpy as np
import pytest


def test_the_expected_errors_of_who_is_told_are_those_of_a_normal_law(module):
    """Against draws of the law, kept where they agree with what was seen."""
    told = module("_regime_told")
    cover = np.array([[0.3, 0.2], [0.2, 0.4]])
    surface = told.Surface(-2.0, cover)
    found = surface.expected(np.array([0]), np.array([-1.5]), np.array([0.1]))
    generator = np.random.default_rng(0)
    drawn = -2.0 + generator.multivariate_normal(np.zeros(2), cover, size=2_000_000)
    seen = drawn[:, 0] + np.sqrt(0.1) * generator.normal(size=len(drawn))
    near = abs(seen + 1.5) < 0.01
    np.testing.assert_allclose(found, np.exp(drawn[near]).mean(0), rtol=0.02)


@pytest.fixture(scope="module")
def noisy_grid():
    """Three loads, four levels, forty seeds; the best level moves with the load."""
    generator = np.random.default_rng(1)
    loads, levels = np.array([0.1, 0.2, 0.4]), np.array([4.0, 9, 25, 49])
    best = np.array([0, 1, 3])[:, None]
    truth = 0.1 * np.exp(0.3 * abs(np.arange(4) - best)) / (1 + np.arange(3))[:, None]
    noise = np.exp(0.5 * generator.normal(size=(3, 4, 40)))
    return loads, levels, truth[..., None], noise


def test_who_is_told_regrets_nothing_where_all_is_seen_and_less_with_seeds(module, noisy_grid):
    told, regret = module("_regime_told"), module("_regime_regret")
    loads, levels, truth, noise = noisy_grid

    def least(errors, cells, seeds):
        surface = told.Surface.fit(errors, loads, levels)
        reference = regret.Reference(list(errors))
        return told.told_regret(reference, surface, lambda _: cells, seeds, draws=300)

    quiet = truth * noise**0.01
    assert least(quiet, range(12), 1)["regret_points"] < 1e-3
    loud = truth * noise
    one, many = (least(loud, range(12), seeds) for seeds in (1, 20))
    assert many["regret_points"] + 3 * many["error"] < one["regret_points"] - 3 * one["error"]
    # Five cells of one seed tell less still.
    few = least(loud, [0, 3, 6, 8, 11], 1)
    assert few["regret_points"] > one["regret_points"]


def test_who_is_told_advises_only_within_his_pilots(module, noisy_grid):
    """Two levels at one load: the advice is one of those two and those between, at that load."""
    told, regret = module("_regime_told"), module("_regime_regret")
    loads, levels, truth, noise = noisy_grid
    quiet = truth * noise**0.01
    surface = told.Surface.fit(quiet, loads, levels)
    reference = regret.Reference(quiet)
    found = told.told_regret(reference, surface, lambda _: [2, 3], 1, draws=50)
    # Best at this load is level 0; the nearest that may be said is 2.
    expected = 100 * float(truth[0, 2, 0] - truth[0, 0, 0])
    assert found["regret_points"] == pytest.approx(expected, rel=0.02)
