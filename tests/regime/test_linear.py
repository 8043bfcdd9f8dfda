"""The linear form of the model against regressions that are linear."""

import numpy as np
import pytest

from probcomp.regime.gp import GaussianProcess, matern
from probcomp.regime.linear import Linear

CELLS, SIZE = 5, 4


@pytest.fixture
def exact():
    generator = np.random.default_rng(0)
    start, slope = generator.normal(size=(CELLS, 3)), generator.normal(size=(CELLS, 3, SIZE))
    return Linear(start, slope, np.full((CELLS, 3), 0.3))


def test_a_linear_mean_is_found_from_draws(exact):
    u = np.random.default_rng(1).normal(0.4, 0.2, size=(300, SIZE))
    found = Linear.of(u, exact.start + np.einsum("cdp,sp->scd", exact.slope, u), exact.variance)
    np.testing.assert_allclose(found.slope, exact.slope, atol=1e-5)
    np.testing.assert_allclose(found.start, exact.start, atol=1e-5)


def test_a_bent_mean_gets_its_average_slope():
    u = np.random.default_rng(2).normal(1.0, 0.3, size=(40_000, 1))
    mean = np.broadcast_to((u**2)[:, :, None], (len(u), 1, 3))
    # E[d u^2 / du] = 2 E[u]; the standard error of the regression is below .01.
    assert Linear.of(u, mean, np.ones((1, 3))).slope[0, 0, 0] == pytest.approx(2.0, abs=0.04)


def test_the_error_given_the_others_equals_the_joint_normal(exact):
    z = np.random.default_rng(3).normal(size=(CELLS, 3))
    joint = exact.covariance(None)
    first, rest = slice(0, CELLS), slice(CELLS, 3 * CELLS)
    gain = np.linalg.solve(joint[rest, rest], joint[rest, first]).T
    r = (z - exact.start).T.reshape(-1)
    mean, cover = exact.error_given_others(z)
    np.testing.assert_allclose(mean, exact.start[:, 0] + gain @ r[rest], atol=1e-6)
    noiseless = joint[first, first] - 0.3 * np.eye(CELLS)
    np.testing.assert_allclose(cover, noiseless - gain @ joint[rest, first], atol=1e-6)


def test_a_residual_adds_to_the_error_alone(exact):
    inputs = np.random.default_rng(4).normal(size=(CELLS, 2))
    own = np.arange(CELLS) / 10
    residual = GaussianProcess(inputs, 0.5, np.array([1.0, 2.0]), 0.1, own)
    change = exact.covariance(residual) - exact.covariance(None)
    expected = 0.25 * matern(inputs, inputs, residual.lengths) + np.diag(0.01 - 0.3 + own)
    np.testing.assert_allclose(change[:CELLS, :CELLS], expected, atol=1e-12)
    change[:CELLS, :CELLS] = 0
    assert not change.any()
