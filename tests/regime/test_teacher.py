"""The exact risk against Monte Carlo, and the flip of the best direction."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.teacher import TeacherStudent

BEST = {0.02: 0.795, 0.05: 0.748, 0.1: 0.657, 0.2: 0.557, 0.4: 0.480, 0.8: 0.446, 1.0: 0.444}


@pytest.mark.parametrize("density", BEST)
def test_best_scale_matches_the_table(density):
    assert TeacherStudent().best_scale(density) == pytest.approx(BEST[density], abs=1e-3)


def test_best_scale_is_the_minimum_of_the_risk():
    toy = TeacherStudent()
    for density in BEST:
        best = toy.best_scale(density)
        around = [toy.risk(density, best + step) for step in (-1e-3, 0.0, 1e-3)]
        assert around[1] < min(around[0], around[2])
    assert toy.risk(0.1, toy.best_scale(0.1)) == pytest.approx(0.0906, abs=2e-4)


@pytest.mark.parametrize(("density", "scale"), [(0.05, 0.9), (0.2, 0.5), (1.0, 0.3)])
def test_risk_agrees_with_monte_carlo(density, scale):
    toy = TeacherStudent()
    sampled = toy.sample_risk(density, scale, size=1_000_000)
    # A million weights put the Monte Carlo error below 1e-3 of these risks.
    assert sampled == pytest.approx(toy.risk(density, scale), abs=1e-3)


def test_a_dense_teacher_without_pruning_is_ridge_shrinkage():
    toy = TeacherStudent(sparsity=1.0, signal=2.0, noise=0.5)
    assert toy.best_scale(1.0) == pytest.approx(2.0 / 2.5, abs=1e-12)
    assert np.isclose(toy.density(0.0), 1.0)


def test_bad_input_is_refused():
    with pytest.raises(InputError):
        TeacherStudent(sparsity=0.0)
    with pytest.raises(InputError):
        TeacherStudent().best_scale(1.5)
