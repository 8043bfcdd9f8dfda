"""The quick belief that plans pilots: interpolates what is quiet, knows where runs differ."""

import numpy as np

from probcomp.regime.surface import ErrorSurface

POINTS = np.array([(x, t) for x in np.log([0.05, 0.1, 0.2, 0.4]) for t in (1.0, 2, 4, 6, 8)])


def log_error(points):
    x, t = (points - points.mean(0)).T
    return -2.5 - 0.4 * x + 0.05 * (t + 2 * x) ** 2


def test_quiet_runs_are_interpolated():
    """Each point twice, with the same answer: so there is no noise."""
    rows = np.repeat([0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19], 2)
    error = np.exp(log_error(POINTS)[rows])
    found = ErrorSurface.fit(POINTS, rows, error)
    np.testing.assert_allclose(found.mean[rows], np.log(error), atol=0.02)
    assert abs(found.mean - log_error(POINTS)).max() < 0.25  # of a range of 2.4
    assert np.sqrt(np.diag(found.cover))[rows].max() < np.sqrt(np.diag(found.cover)).max()


def test_repeats_tell_how_far_runs_differ_and_where():
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(POINTS)), 3)
    spread = 0.3 * np.exp(-0.5 * (POINTS[:, 0] - POINTS[:, 0].mean()) / POINTS[:, 0].std())
    error = np.exp(log_error(POINTS)[rows] + spread[rows] * generator.standard_normal(len(rows)))
    found = ErrorSurface.fit(POINTS, rows, error)
    np.testing.assert_allclose(np.sqrt(found.noise), spread, rtol=0.35)
    miss = abs(found.mean - log_error(POINTS)) / np.sqrt(np.diag(found.cover))
    assert np.mean(miss < 1.645) > 0.75


def test_a_repeat_leaves_less_open():
    rows = np.array([0, 4, 15, 19, 7])
    error = np.exp(log_error(POINTS)[rows])
    one = ErrorSurface.fit(POINTS, rows, error)
    two = ErrorSurface.fit(POINTS, np.repeat(rows, 2), np.repeat(error, 2))
    assert two.cover[0, 0] < one.cover[0, 0]
