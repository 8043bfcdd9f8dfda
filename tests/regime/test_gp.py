"""The process against scikit-learn, and its draws against their own moments."""

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import Matern

from probcomp.errors import InputError
from probcomp.regime.gp import GaussianProcess, Processes, draws, matern


def test_kernel_equals_scikit_learn():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(7, 2)), generator.normal(size=(5, 2))
    lengths = np.array([0.7, 2.0])
    np.testing.assert_allclose(matern(a, b, lengths), Matern(lengths, nu=2.5)(a, b), atol=1e-12)


@pytest.mark.parametrize("slopes", [0.0, np.array([0.5, 1.0])])
@pytest.mark.parametrize("known", [0.0, np.array([0.0, 0.5, 0, 1.0, 0, 0.1])])
def test_conditioning_equals_the_joint_normal(known, slopes):
    generator = np.random.default_rng(1)
    train, points, y = generator.normal(size=(6, 2)), generator.normal(size=(3, 2)), np.arange(6.0)
    gp = GaussianProcess(train, 0.8, np.array([1.0, 1.3]), 0.2, known, slopes)
    weights, cover = gp.condition(points)
    both = np.vstack([train, points])
    every = 0.64 * matern(both, both, gp.lengths) + (both * slopes) @ (both * slopes).T
    every[:6, :6] += np.diag(0.04 + known * np.ones(6))
    # The block of the inverse of the joint covariance is the inverse of the conditional one.
    inverse = np.linalg.inv(every)
    np.testing.assert_allclose(np.linalg.inv(inverse[6:, 6:]), cover, atol=1e-6)
    mean = -np.linalg.solve(inverse[6:, 6:], inverse[6:, :6] @ y)
    np.testing.assert_allclose(weights @ y, mean, atol=1e-5)


def test_fit_recovers_a_smooth_function():
    x = np.linspace(-1.5, 1.5, 25)[:, None]
    gp = GaussianProcess.fit(x, np.sin(2 * x[:, 0]))
    new = np.array([[0.31], [-0.77]])
    np.testing.assert_allclose(
        gp.condition(new)[0] @ np.sin(2 * x[:, 0]), np.sin(2 * new[:, 0]), atol=0.01
    )


def test_values_that_are_known_to_be_noisy_are_not_followed():
    x = np.linspace(-1.5, 1.5, 26)[:, None]
    y = np.sin(2 * x[:, 0])
    wild = np.arange(26) % 2 == 1
    seen = np.where(wild, y + np.random.default_rng(0).normal(size=26), y)
    told = GaussianProcess.fit(x, seen, known=np.where(wild, 1.0, 0.0))
    miss = [
        np.abs(gp.condition(x)[0] @ seen - y).max() for gp in (told, GaussianProcess.fit(x, seen))
    ]
    assert miss[0] < 0.1 < miss[1]
    assert told.noise < 0.05


def test_slopes_carry_a_line_out_of_the_values():
    x = np.linspace(-1.5, 0, 8)[:, None]
    flat, sloping = (GaussianProcess.fit(x, 0.8 * x[:, 0], slopes=slope) for slope in (0.0, 0.6))
    far = np.array([[4.0]])
    lines = [gp.condition(far)[0] @ (0.8 * x[:, 0]) for gp in (flat, sloping)]
    assert lines[1] == pytest.approx(3.2, abs=0.1)
    assert lines[0] < 2.0


def test_draws_of_several_processes_are_of_each_in_turn():
    x, points = np.array([[-1.0], [1.0]]), np.array([[0.0], [3.0]])
    parts = tuple(
        GaussianProcess(x, amplitude, np.array([length]), noise)
        for amplitude, length, noise in ((1.0, 1.0, 0.1), (0.2, 0.5, 0.3))
    )
    several = Processes(parts)
    values = np.tile([[1.0, 0.5], [0.0, -1.0], [2.0, 0.0]], (20_000, 1))
    drawn = several.draws(points, values, np.random.default_rng(0))
    for row in range(6):  # every part with every value
        weights, cover = parts[row % 2].condition(points)
        some = drawn[row::6]
        np.testing.assert_allclose(some.mean(0), weights @ values[row], atol=0.05)
        np.testing.assert_allclose(np.cov(some.T), cover, atol=0.06)
    np.testing.assert_array_equal(several.noise(5)[:, 0], [0.1, 0.3, 0.1, 0.3, 0.1])


def test_draws_have_the_moments_asked_for():
    cover = np.array([[1.0, 0.6], [0.6, 0.5]])
    sample = draws(np.array([1.0, -1.0]), cover, 40_000, np.random.default_rng(0))
    # Five standard errors of 40,000 draws are below 0.03 for means and 0.04 for covariances.
    np.testing.assert_allclose(sample.mean(0), [1, -1], atol=0.03)
    np.testing.assert_allclose(np.cov(sample.T), cover, atol=0.04)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(InputError):
        GaussianProcess.fit(np.zeros((3, 2)), np.zeros(4))
