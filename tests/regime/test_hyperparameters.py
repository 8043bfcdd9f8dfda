"""Draws of hyperparameters against a grid, their prior, and intervals that hold what they say."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from probcomp.regime.gp import GaussianProcess, Processes, matern
from probcomp.regime.hyperparameters import Evidence


def simulated(generator, rows=6, points=8):
    """Hyperparameters of the prior, and a process of theirs: inputs, values, points, truths."""
    inputs = generator.uniform(-1.5, 1.5, size=(rows + points, 1))
    h = Evidence.of(inputs, np.zeros(len(inputs))).prior(generator.uniform(size=(1, 3)))
    process = GaussianProcess.of(inputs, h[0])
    root = np.linalg.cholesky(process.kernel(inputs, inputs) + 1e-9 * np.eye(len(inputs)))
    f = root @ generator.normal(size=len(inputs))
    seen = f[:rows] + process.noise * generator.normal(size=rows)
    return inputs[:rows], seen, inputs[rows:], f[rows:]


def test_the_likelihood_is_that_of_the_joint_normal():
    generator = np.random.default_rng(0)
    inputs, values = generator.normal(size=(7, 2)), generator.normal(size=7)
    known, extra = generator.uniform(size=7), 0.3 * np.ones((7, 7))
    evidence = Evidence.of(inputs, values, known=known, extra=extra)
    h = generator.normal(size=(3, 4))
    for one, found in zip(np.exp(h), evidence.log_likelihood(h)):
        cover = one[0] ** 2 * matern(inputs, inputs, one[1:3]) + extra
        cover += np.diag(one[3] ** 2 + known + 1e-8)
        factor = np.linalg.cholesky(cover)
        exact = norm.logpdf(np.linalg.solve(factor, values)).sum() - np.log(np.diag(factor)).sum()
        assert found == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trials_have_the_moments_of_the_posterior_on_a_grid(seed):
    """By brute force over 24^3 hyperparameters; 256 trials are off by a tenth of a spread."""
    inputs, values, *_ = simulated(np.random.default_rng(seed))
    evidence = Evidence.of(inputs, values)
    axes = np.linspace(-4, 1.6, 24), np.linspace(-2.2, 3.0, 24), np.linspace(-6.5, 1.5, 24)
    grid = np.array(list(product(*axes)))
    log = evidence.log_posterior(grid)
    share = np.exp(log - log.max())
    share /= share.sum()
    h, weight = evidence.trials()
    assert 1 / (weight**2).sum() > 40
    mean = share @ grid
    spread = np.sqrt(share @ (grid - mean) ** 2)
    assert np.all(np.abs(weight @ h - mean) < 0.25 * spread)
    np.testing.assert_allclose(np.sqrt(weight @ (h - mean) ** 2), spread, rtol=0.25)
    drawn = evidence.sample(31)
    assert np.all(np.abs(drawn.mean(0) - mean) < 0.5 * spread)


def test_values_that_tell_nothing_leave_the_prior():
    evidence = Evidence.of(np.zeros((1, 1)), np.zeros(1), known=1e6, amplitude_scale=0.3)
    h, weight = evidence.trials(4096)
    quantiles = norm.ppf([0.1, 0.5, 0.9])
    amplitude = np.log(0.3 * norm.ppf(0.5 + np.array([0.1, 0.5, 0.9]) / 2))
    expected = amplitude, np.log(1.5) + 0.7 * quantiles, np.log(0.1) + quantiles
    for column, wanted in zip(h.T, expected):
        order = np.argsort(column)
        at = np.cumsum(weight[order]).searchsorted([0.1, 0.5, 0.9])
        np.testing.assert_allclose(column[order][at], wanted, atol=0.08)


@pytest.mark.slow
def test_intervals_from_six_values_hold_what_they_say():
    """90 % of what is simulated from the prior; with the most probable hyperparameters, less.

    120 processes of 8 correlated points: the standard error of a coverage is about .02.
    """
    generator = np.random.default_rng(5)
    inside = []
    for _ in range(120):
        inputs, seen, points, truth = simulated(generator)
        mode = Processes((GaussianProcess.fit(inputs, seen),))
        values = np.tile(seen, (31 * 40, 1))
        inside.append([
            np.mean((truth >= low) & (truth <= high))
            for low, high in (
                np.quantile(some.draws(points, values, generator), [0.05, 0.95], axis=0)
                for some in (Processes.fit(inputs, seen), mode)
            )
        ])  # fmt: skip
    integrated, point = np.mean(inside, 0)
    assert integrated == pytest.approx(0.9, abs=0.04)
    assert point < 0.85
