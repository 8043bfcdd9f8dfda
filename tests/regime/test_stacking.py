"""Leave-one-out scores against refits, and the weight they give."""

import numpy as np
import pytest
from scipy.stats import norm

from probcomp.regime.gp import GaussianProcess
from probcomp.regime.stacking import (
    covariance,
    importance_weights,
    left_out,
    process_scores,
    regime_scores,
    stacking_weight,
)


def test_leaving_one_out_equals_conditioning_on_the_others():
    generator = np.random.default_rng(0)
    inputs, y = generator.normal(size=(9, 2)), generator.normal(size=9)
    process = GaussianProcess(inputs, 0.8, np.array([1.0, 0.6]), 0.3)
    scores = process_scores(process, y)
    errors, variances = left_out(covariance(process), y)
    for i in range(9):
        rest = np.arange(9) != i
        part = GaussianProcess(inputs[rest], 0.8, process.lengths, 0.3)
        weights, cover = part.condition(inputs[i : i + 1])
        mean, sd = float(weights[0] @ y[rest]), np.sqrt(cover[0, 0] + 0.3**2)
        assert errors[i] == pytest.approx(y[i] - mean, abs=1e-6)
        assert variances[i] == pytest.approx(sd**2, abs=1e-6)
        assert scores[i] == pytest.approx(norm.logpdf(y[i], mean, sd), abs=1e-6)


def test_importance_weights_recover_the_posterior_without_a_cell():
    """Normal mean with known noise: the exact leave-one-out density is known."""
    generator = np.random.default_rng(1)
    n, sigma = 12, 0.7
    y = generator.normal(0.4, sigma, n)
    precision = 1 + n / sigma**2
    draws = generator.normal(y.sum() / sigma**2 / precision, precision**-0.5, 200_000)
    log_likelihood = norm.logpdf(y[None], draws[:, None], sigma)
    found = regime_scores(log_likelihood, y - draws[:, None], None, np.full(len(draws), sigma))
    for i in range(n):
        rest = np.delete(y, i)
        p = 1 + (n - 1) / sigma**2
        exact = norm.logpdf(y[i], rest.sum() / sigma**2 / p, np.sqrt(1 / p + sigma**2))
        assert found[i] == pytest.approx(exact, abs=0.02)  # Monte Carlo and truncation


def test_weights_are_cut_at_the_square_root_of_the_draws():
    log_likelihood = np.zeros((10_000, 1))
    log_likelihood[0] = -7.0  # e^7 = 1097 times the others; the mean is 1.1, the cut 100 means
    weights = np.exp(importance_weights(log_likelihood))
    assert weights.sum() == pytest.approx(1)
    mean = 1 + (np.e**7 - 1) / 10_000
    assert weights[0, 0] / weights[1, 0] == pytest.approx(100 * mean, rel=1e-6)


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
