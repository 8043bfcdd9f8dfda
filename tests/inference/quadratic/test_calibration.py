"""Inclusion probabilities mean what they say, on teachers drawn from the prior."""

import pytest
import torch

from probcomp.inference.quadratic import GroupFactor, ep_group, ep_shared
from probcomp.priors import Independent
from probcomp.testing.calibration import calibration
from probcomp.testing.quadratic import group_teacher, weight_teacher

ECE = 0.05  # expected calibration error; the noise of ten bins of 512 supports is 0.02 to 0.04


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize(("size", "tokens"), [(64, 200), (256, 600)])
def test_weights(size: int, tokens: int, learnt: bool) -> None:
    teacher = weight_teacher(
        rows=64, size=size, tokens=tokens, density=0.3, correlation=1.0, seed=size
    )
    if learnt:
        result = ep_shared(teacher.quadratic, prior=Independent(0.5))
    else:
        result = ep_shared(
            teacher.quadratic, prior=Independent(0.3), slab=25.0, spike=2500.0, learn=False
        )
    found = calibration(result.probability, teacher.support)
    assert found.ece < ECE
    assert 0.9 < found.ratio < 1.1
    assert found.brier < 0.15  # 0.21 is what the density alone gives
    assert found.middle > 0.5  # the question is open for most weights


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize(
    ("groups", "width", "rows", "tokens", "seeds"), [(256, 1, 8, 600, 4), (64, 4, 4, 500, 16)]
)
def test_groups(groups: int, width: int, rows: int, tokens: int, seeds: int, learnt: bool) -> None:
    probability, support = [], []
    for seed in range(seeds):
        teacher = group_teacher(
            groups=groups, width=width, rows=rows, tokens=tokens,
            correlation=1.0, density=0.4, slab=400.0, seed=seed,
        )  # fmt: skip
        if learnt:
            factor = GroupFactor(teacher.quadratic, teacher.columns)
            result = ep_group([factor], prior=Independent(0.5), learn=True, iterations=60)
        else:
            result = ep_group([teacher.factor], prior=Independent(0.4))
        probability.append(result.probability)
        support.append(teacher.support)
    found = calibration(torch.cat(probability), torch.cat(support))
    assert found.ece < ECE
    assert 0.9 < found.ratio < 1.1
    assert found.brier < 0.15  # 0.24 is what the density alone gives
    assert found.middle > 0.5
