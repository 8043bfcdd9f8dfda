"""Scores around a decision against the saliencies of Optimal Brain Surgeon."""

import math

import pytest
import torch

from probcomp.inference.quadratic import GroupFactor, Quadratic
from probcomp.priors import Independent
from probcomp.recipes.post_posterior import believe

CLOSE = 2e-3  # relative; a removed unit is held at zero by a thousand times its own precision
TIGHT = 1e-4  # where it is held by a hundred thousand times that


def factor(seed: int = 0) -> GroupFactor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    x[:, 1] += x[:, 0]
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return GroupFactor(Quadratic(weight, x.T @ x, 0.01), torch.arange(6).view(3, 2))


def saliency(part: GroupFactor, unit: int, there: torch.Tensor) -> float:
    """Loss of removing a unit when the others that are there adjust."""
    weight, precision = part.quadratic.weight, part.quadratic.precision
    mine = part.columns[unit]
    rest = part.columns[there & (torch.arange(3) != unit)].flatten()
    block = precision[mine][:, mine]
    if len(rest):
        across = precision[mine][:, rest]
        block = block - across @ torch.linalg.solve(precision[rest][:, rest], across.T)
    gone = part.columns[~there & (torch.arange(3) != unit)].flatten()
    # what the removed ones did is made up for first, by all that are there and this unit
    both = torch.cat([mine, rest])
    linear = (weight @ precision)[:, both] if len(gone) else None
    value = weight[:, mine]
    if linear is not None:
        value = torch.linalg.solve(precision[both][:, both], linear.T).T[:, : len(mine)]
    return 0.5 * float(((value @ block) * value).sum())


@pytest.mark.parametrize("keep", [[True, True, True], [True, False, True], [False, True, False]])
def test_evidence_is_the_loss_of_removal_around_the_decision(
    keep: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, there = factor(), torch.tensor(keep)
    wanted = [saliency(part, unit, there) for unit in range(3)]
    found = believe([part], there, price=0.0, iterations=1)
    assert found.evidence.tolist() == pytest.approx(wanted, rel=CLOSE)
    most = {torch.float64: 1e10}
    monkeypatch.setattr("probcomp.recipes.post_posterior.MOST_SITE", most)
    held = believe([part], there, price=0.0, iterations=1)
    assert held.evidence.tolist() == pytest.approx(wanted, rel=TIGHT)
    torch.testing.assert_close(found.log_odds, found.evidence)
    torch.testing.assert_close(found.probability, found.log_odds.sigmoid())


def test_read_outs_of_one_axis_add_up_and_price_and_prior_shift_the_odds() -> None:
    parts, there = [factor(0), factor(1)], torch.ones(3, dtype=torch.bool)
    alone = [believe([p], there, price=0.0, iterations=1).evidence for p in parts]
    price = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = believe(parts, there, price=price, prior=Independent(0.2), iterations=1)
    torch.testing.assert_close(found.evidence, alone[0] + alone[1])
    wanted = found.evidence - price + math.log(0.2 / 0.8)
    torch.testing.assert_close(found.log_odds, wanted)


def test_more_iterations_let_doubtful_neighbours_count_for_less() -> None:
    """Two copies of one input: each is free to go while the other surely stays."""
    x = torch.randn(50, 1, dtype=torch.float64).repeat(1, 2)
    part = GroupFactor(
        Quadratic(torch.ones(2, 2, dtype=torch.float64), x.T @ x, 1e-3), torch.arange(2)[:, None]
    )
    sure, unsure = (
        believe([part], torch.ones(2, dtype=torch.bool), price=0.5, iterations=n) for n in (1, 20)
    )
    assert float(sure.log_odds.max()) < 0  # both could go, and so both would
    assert float(unsure.evidence.min()) > float(sure.evidence.max())
