"""Swaps against the best set of the same size found by enumeration."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, Quadratic, ep_group, exchange, refit
from probcomp.testing.quadratic import enumerate_groups, group_teacher


@pytest.mark.parametrize("width", [1, 2])
def test_never_worse_and_mostly_the_best_set_of_its_size(width: int) -> None:
    found_best = 0
    for seed in range(10):
        teacher = group_teacher(
            groups=9, width=width, rows=6, tokens=60, density=0.9, correlation=2.0, seed=seed
        )
        result = ep_group([teacher.factor], price=2.0, iterations=30)
        posterior = enumerate_groups([teacher.factor], bias=-2.0)
        start = torch.rand(9, generator=torch.Generator().manual_seed(seed)).argsort() < 5
        kept = exchange([teacher.factor], result, start)
        assert int(kept.sum()) == 5
        score = {
            tuple(s.bool().tolist()): float(v) for s, v in zip(posterior.supports, posterior.score)
        }
        before, after = score[tuple(start.tolist())], score[tuple(kept.tolist())]
        assert after >= before - 1e-9
        best = max(v for s, v in score.items() if sum(s) == 5)
        found_best += after > best - 1e-9
    assert found_best >= 7


def test_redundant_units_lose_less_than_one_at_a_time_ranking() -> None:
    """Sixteen signals through 64 units: the set matters more than its members."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 16, generator=generator, dtype=torch.double)
    mix = torch.randn(16, 64, generator=generator, dtype=torch.double)
    hidden = torch.nn.functional.gelu(x @ mix)
    weight = torch.randn(12, 64, generator=generator, dtype=torch.double)
    quadratic = Quadratic(weight, hidden.T @ hidden)
    factor = GroupFactor(quadratic, torch.arange(64)[:, None])
    result = ep_group([factor], price=50.0)
    kept = torch.zeros(64, dtype=torch.bool)
    kept[ep_group([factor]).evidence.topk(32).indices] = True
    swapped = exchange([factor], result, kept)
    losses = [quadratic.loss_increase(refit(quadratic, k) - weight) for k in (kept, swapped)]
    assert losses[1] < losses[0]


def test_everything_and_nothing_stay_and_bad_sets_are_refused() -> None:
    factor = group_teacher().factor
    result = ep_group([factor])
    for kept in (torch.ones(8) > 0, torch.zeros(8) > 0):
        assert torch.equal(exchange([factor], result, kept), kept)
    with pytest.raises(InputError, match=r"boolean \[8\]"):
        exchange([factor], result, torch.ones(8))
    with pytest.raises(InputError, match=r"boolean \[8\]"):
        exchange([factor], result, torch.ones(5) > 0)
