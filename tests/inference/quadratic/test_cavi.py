"""Coordinate ascent: right where inputs are independent, and how far off where they are not."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference import turbo
from probcomp.inference.quadratic import Quadratic, joint_cavi
from probcomp.inference.quadratic.cavi import PANEL
from probcomp.inference.regression import GaussianRegression
from probcomp.priors import Chain, Independent
from probcomp.testing.quadratic import enumerate_weights, weight_teacher
from tests.inference.test_regression import SLAB, SPIKE, problem


def cavi(teacher, **settings):
    settings = {"learn": False, "iterations": 400, "tolerance": 1e-9} | settings
    return joint_cavi(teacher.quadratic, slab=teacher.slab, spike=teacher.spike, **settings)


def test_independent_inputs_against_enumeration() -> None:
    teacher = weight_teacher(seed=1)
    assert (cavi(teacher).probability - enumerate_weights(teacher)).abs().max() < 0.02


def test_correlated_inputs_break_it() -> None:
    """Documents the limit that expectation propagation is there for."""
    teacher = weight_teacher(correlation=2.0, seed=1)
    assert (cavi(teacher).probability - enumerate_weights(teacher)).abs().max() > 0.25


def test_one_row_is_the_joint_form_of_the_regression() -> None:
    """The same fixed point as a naive sweep over the design matrix's columns."""
    data = problem(3, correlated=False)
    weight = torch.linalg.solve(data.gram, data.linear)[None]
    prior = Independent(0.3)
    result = joint_cavi(
        Quadratic(weight, data.gram, 0.0), prior=prior, slab=SLAB, spike=SPIKE,
        learn=False, iterations=500, tolerance=1e-10,
    )  # fmt: skip
    reference = turbo(GaussianRegression(data, SLAB, SPIKE), prior, size=(10,))
    torch.testing.assert_close(result.probability[0], reference.probability, rtol=0, atol=1e-6)


def test_panels_change_nothing(monkeypatch) -> None:
    teacher = weight_teacher(rows=5, size=30, tokens=400, correlation=0.5, seed=2)
    whole = cavi(teacher)
    assert PANEL > 30
    monkeypatch.setattr("probcomp.inference.quadratic.cavi.PANEL", 7)
    torch.testing.assert_close(cavi(teacher).probability, whole.probability, rtol=0, atol=1e-7)


def test_rows_chain_slab_and_density() -> None:
    teacher = weight_teacher(rows=60, size=40, tokens=800, density=0.3, seed=3)
    result = joint_cavi(teacher.quadratic, prior=Independent(0.5))
    assert result.prior.density == pytest.approx(0.3, abs=0.03)
    assert result.slab == pytest.approx(25.0, rel=0.15)
    small = weight_teacher(tokens=200, seed=4)
    rows = torch.linspace(0.5, 2.0, 24, dtype=torch.double)
    error = (cavi(small, rows=rows).probability - enumerate_weights(small, rows=rows)).abs()
    assert error.max() < 0.02
    chain = Chain(0.2, 0.4)
    error = (cavi(small, prior=chain).probability - enumerate_weights(small, prior=chain)).abs()
    assert error.max() < 0.1


def test_bad_input_is_refused() -> None:
    quadratic = weight_teacher().quadratic
    with pytest.raises(InputError, match="tolerance"):
        joint_cavi(quadratic, tolerance=0.0)
    with pytest.raises(InputError, match="spike"):
        joint_cavi(quadratic, slab=1.0, spike=0.5)
