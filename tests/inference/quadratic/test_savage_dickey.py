"""The Bayes factor of a group: the identity, and its two classical limits."""

import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, Quadratic, column_evidence
from probcomp.testing.quadratic import group_teacher, set_evidence

IDENTITY = 1e-10  # relative; two ways to one number in double precision


@pytest.mark.parametrize("correlation", [0.0, 2.0])
@pytest.mark.parametrize("width", [1, 3])
def test_it_is_the_difference_of_two_evidences(width: int, correlation: float) -> None:
    teacher = group_teacher(width=width, correlation=correlation, seed=4)
    found = column_evidence(teacher.quadratic, teacher.columns, teacher.slab)
    everything = torch.ones(8, dtype=torch.bool)
    for group in range(8):
        without = everything.clone()
        without[group] = False
        direct = set_evidence(teacher.factor, everything) - set_evidence(teacher.factor, without)
        assert float(found[group]) == pytest.approx(float(direct), rel=IDENTITY)


def test_a_vanishing_slab_leaves_the_saliency_of_optimal_brain_surgeon() -> None:
    teacher = group_teacher(correlation=1.0, seed=1)
    quadratic, slab = teacher.quadratic, 1e-9
    inverse = torch.linalg.inv(quadratic.precision)
    found = column_evidence(quadratic, teacher.columns, slab)
    for group, columns in enumerate(teacher.columns):
        block, weight = inverse[columns][:, columns], quadratic.weight[:, columns]
        saliency = 0.5 * ((weight @ torch.linalg.inv(block)) * weight).sum()
        occam = quadratic.rows / 2 * (block.logdet() + 3 * math.log(slab))
        assert float(found[group]) == pytest.approx(float(saliency + occam), rel=1e-7)


def test_a_diagonal_gram_gives_optimal_brain_damage_and_a_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    curvature = torch.rand(6, generator=generator, dtype=torch.double) + 0.5
    weight = torch.randn(1, 6, generator=generator, dtype=torch.double)
    quadratic, slab = Quadratic(weight, torch.diag(curvature), jitter=0.0), 0.7
    found = column_evidence(quadratic, torch.arange(6)[:, None], slab)
    gain = 0.5 * curvature.square() * weight[0].square() / (curvature + slab)
    torch.testing.assert_close(found, gain - 0.5 * torch.log1p(curvature / slab))
    tiny = column_evidence(quadratic, torch.arange(6)[:, None], 1e-9)
    damage = 0.5 * curvature * weight[0].square() - 0.5 * torch.log1p(curvature / 1e-9)
    torch.testing.assert_close(tiny, damage)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (torch.arange(6), r"\[groups, columns a group\]"),
        (torch.zeros(0, 2, dtype=torch.long), r"\[groups, columns a group\]"),
        (torch.arange(6).view(3, 2) + 20, r"0\.\.23"),
        (torch.tensor([[0, 1], [1, 2]]), "named twice"),
        (torch.arange(6).view(3, 2).double(), "integers"),
    ],
)
def test_bad_columns_are_refused(columns, message: str) -> None:
    quadratic = group_teacher().quadratic
    with pytest.raises(InputError, match=message):
        column_evidence(quadratic, columns, 1.0)
    with pytest.raises(InputError, match=message):
        GroupFactor(quadratic, columns)


def test_a_bad_slab_is_refused() -> None:
    teacher = group_teacher()
    for slab in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="slab"):
            column_evidence(teacher.quadratic, teacher.columns, slab)
