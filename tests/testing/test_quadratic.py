"""The brute force behind inference after training, against a second way to the same numbers."""

import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor
from probcomp.priors import Independent
from probcomp.testing.quadratic import (
    enumerate_groups,
    enumerate_weights,
    group_teacher,
    set_evidence,
    weight_teacher,
)


def test_evidence_of_a_set_is_the_marginal_likelihood_of_its_outputs() -> None:
    """Weights integrated in output space: ``N(y | 0, X X' / alpha + I)`` up to the full fit."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.double)
    y = torch.randn(30, 2, generator=generator, dtype=torch.double)
    teacher = group_teacher(groups=2, width=2, rows=2)
    gram = x.T @ x
    weight = torch.linalg.solve(gram, x.T @ y).T
    quadratic = type(teacher.quadratic)(weight, gram, 0.0)
    factor = GroupFactor(quadratic, torch.arange(4).view(2, 2), 3.0)

    def marginal(kept: list[bool]) -> float:
        columns = factor.columns[torch.tensor(kept)].flatten()
        covariance = torch.eye(30).double() + x[:, columns] @ x[:, columns].T / 3.0
        model = torch.distributions.MultivariateNormal(torch.zeros(30).double(), covariance)
        return float(model.log_prob(y.T).sum())

    for kept in ([True, False], [True, True]):
        expected = marginal(kept) - marginal([False, False])
        found = float(set_evidence(factor, torch.tensor(kept)))
        assert found == pytest.approx(expected, rel=1e-10)


def test_one_weight_in_closed_form() -> None:
    teacher = weight_teacher(rows=3, size=1, seed=1)
    a, b = float(teacher.quadratic.gram), teacher.quadratic.linear[:, 0]
    wide, narrow = a + teacher.slab, a + teacher.spike
    odds = 0.5 * math.log(teacher.slab * narrow / teacher.spike / wide)
    odds = odds + 0.5 * b.square() * (1 / wide - 1 / narrow)
    found = enumerate_weights(teacher, prior=Independent(0.3))[:, 0]
    torch.testing.assert_close(found, torch.sigmoid(odds + math.log(0.3 / 0.7)))


def test_teachers_are_what_they_say() -> None:
    teacher = group_teacher(groups=50, width=2, density=0.3, tokens=4000, slab=4.0, seed=2)
    blocks = teacher.truth.view(8, 50, 2)
    assert torch.equal((blocks != 0).any(0).any(-1), teacher.support)
    assert float(teacher.support.double().mean()) == pytest.approx(0.3, abs=0.2)
    assert float((teacher.quadratic.weight - teacher.truth).abs().max()) < 0.1
    spread = float(blocks[:, teacher.support].square().mean())
    assert spread == pytest.approx(0.25, rel=0.3)
    given = torch.rand(3, 5) < 0.5
    assert torch.equal(weight_teacher(support=given).support, given)


def test_a_free_slab_is_refused() -> None:
    teacher = group_teacher()
    with pytest.raises(InputError, match="slab"):
        enumerate_groups([GroupFactor(teacher.quadratic, teacher.columns)])
