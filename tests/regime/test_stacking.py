"""Scores of groups that are left out against refits, and the weight they give."""

import numpy as np
import pytest
from scipy.stats import norm

from probcomp.errors import InputError
from probcomp.regime.gp import GaussianProcess, Processes
from probcomp.regime.linear import Linear
from probcomp.regime.stacking import (
    groups_of,
    left_out,
    process_scores,
    regime_scores,
    stacking_weight,
    stacking_weights,
)


def test_leaving_a_group_out_equals_conditioning_on_the_others():
    generator = np.random.default_rng(0)
    inputs, y = generator.normal(size=(9, 2)), generator.normal(size=9)
    own = generator.uniform(0, 0.5, 9)
    process = GaussianProcess(inputs, 0.8, np.array([1.0, 0.6]), 0.3, own)
    groups = [np.array([0, 4]), np.array([1, 2, 3]), np.array([5, 6, 7, 8])]
    scores = process_scores(process, y, groups)
    errors, variances = left_out(process.covariance(), y, groups)
    for group in groups:
        rest = np.setdiff1d(np.arange(9), group)
        part = GaussianProcess(inputs[rest], 0.8, process.lengths, 0.3, own[rest])
        weights, cover = part.condition(inputs[group])
        mean, sd = weights @ y[rest], np.sqrt(np.diag(cover) + 0.3**2 + own[group])
        np.testing.assert_allclose(errors[group], y[group] - mean, atol=1e-6)
        np.testing.assert_allclose(variances[group], sd**2, atol=1e-6)
        np.testing.assert_allclose(scores[group], norm.logpdf(y[group], mean, sd), atol=1e-6)


def test_all_cells_of_a_load_form_a_group_where_loads_are_many():
    load = np.array([0.1, 0.2, 0.1, 0.4, 0.8, 0.4])
    assert [list(group) for group in groups_of(load)] == [[0, 2], [1], [3, 5], [4]]
    assert [list(group) for group in groups_of(load[:3])] == [[0], [1], [2]]


def test_loads_that_differ_in_the_last_bit_are_one():
    load = np.array([0.1 + 0.2, 0.4, 0.3, 0.6, 0.9])
    assert load[0] != load[2]
    assert [list(group) for group in groups_of(load)] == [[0, 2], [1], [3], [4]]


def test_cells_that_repeat_each_other_without_noise_can_be_left_out():
    half = np.random.default_rng(0).normal(size=(4, 3))
    root = half[[0, 0, 1, 2, 3]]  # the first two are the same, and 5 cells have rank 3
    values = root @ np.array([1.0, -0.5, 0.3])
    error, variance = left_out(root @ root.T, values, [np.array([k]) for k in range(5)])
    assert np.isfinite(error).all()
    assert (variance > 0).all()
    assert error[0] == pytest.approx(0, abs=1e-4)  # its twin tells it


def test_a_linear_model_is_scored_exactly():
    """Leaving out a group of a linear regression, by hand from the posterior of the others."""
    generator = np.random.default_rng(3)
    slope = generator.normal(size=(6, 3, 4))
    linear = Linear(generator.normal(size=(6, 3)), slope, np.full((6, 3), 0.2))
    z = generator.normal(size=(6, 3))
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    found = regime_scores(linear, None, z, groups)
    for group in groups:
        rest = np.setdiff1d(np.arange(6), group)
        J, r = slope[rest].reshape(-1, 4), (z - linear.start)[rest].reshape(-1)
        cover = np.linalg.inv(np.eye(4) + J.T @ J / 0.2)
        mean = cover @ J.T @ r / 0.2
        for i in group:
            sd = np.sqrt(slope[i, 0] @ cover @ slope[i, 0] + 0.2)
            exact = norm.logpdf(z[i, 0], linear.start[i, 0] + slope[i, 0] @ mean, sd)
            assert found[i] == pytest.approx(exact, abs=1e-6)


def test_scores_of_several_residuals_are_those_of_their_mixture():
    generator = np.random.default_rng(3)
    linear = Linear(np.zeros((6, 3)), generator.normal(size=(6, 3, 4)), np.full((6, 3), 0.2))
    z, inputs = generator.normal(size=(6, 3)), generator.normal(size=(6, 2))
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    parts = [GaussianProcess(inputs, a, np.array([1.0, 0.6]), a / 2) for a in (0.1, 1.0)]
    each = [regime_scores(linear, Processes((part,)), z, groups) for part in parts]
    assert np.abs(each[0] - each[1]).max() > 0.1
    both = regime_scores(linear, Processes(tuple(parts)), z, groups)
    np.testing.assert_allclose(np.exp(both), np.exp(each).mean(0), rtol=1e-10)


def test_the_better_side_gets_the_weight_and_neither_gets_all():
    good, bad = np.full(70, 1.0), np.full(70, -2.0)
    assert stacking_weight(good, bad) > 0.9
    assert stacking_weight(bad, good) < 0.1
    assert stacking_weight(bad, good) > 0
    assert stacking_weight(good, good) == pytest.approx(0.8, abs=0.01)  # four to one, by the prior


def test_each_side_where_it_is_good_shares_the_weight():
    first, second = np.repeat([1.0, -4.0], 30), np.repeat([-4.0, 1.0], 30)
    assert 0.45 < stacking_weight(first, second) < 0.6


def test_predictions_hold_draws_of_both(spin_glass):
    model, _ = spin_glass
    assert model.process is not None
    predicted = model.predict({"temperature": [0.6, 1.4]}, [0.7, 1.8])
    assert predicted.error.shape == (len(model.draws), 2)
    assert len(predicted.by_regimes) == round(model.share * len(model.draws))
    assert np.all(np.diff(predicted.by_regimes) >= 0)


def test_stacking_weights_maximise_the_mixture_score():
    generator = np.random.default_rng(0)
    scores = {name: generator.normal(size=40) for name in ("a", "b", "c")}
    weights = stacking_weights(scores)
    assert sum(weights.values()) == pytest.approx(1)
    table = np.exp(np.stack(list(scores.values())))

    def score(w):
        return np.log(w @ table).sum()

    best = score(np.array(list(weights.values())))
    for other in generator.dirichlet(np.ones(3), size=500):
        assert score(other) <= best + 1e-6
    for bad in ({"a": [1.0]}, {"a": [1.0], "b": [1.0, 2.0]}):
        with pytest.raises(InputError):
            stacking_weights(bad)
