import pytest
import torch

from probcomp.errors import BudgetError
from probcomp.recipes.pricing import limit_of
from tests.recipes.jobs import job
from tests.recipes.nets import trained

NAMES = ("one.weight", "two.weight", "three.weight")
TOTAL = 6 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3


def everything() -> dict[str, torch.Tensor]:
    parameters = dict(trained().named_parameters())
    return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in NAMES}


def test_parameters_are_counted_with_what_goes_with_a_unit() -> None:
    given = job("params=0.3")
    limit = limit_of(given)
    assert limit.allowed == pytest.approx(0.3 * TOTAL)
    assert limit.spent(everything(), {}) == TOTAL
    axis = next(a for a in given.units if a.size == 12)
    keep = {axis.name: torch.arange(12) != 4}
    assert limit.spent(everything() | {}, keep) == TOTAL - 1  # masks of weights are given apart
    masks = everything()
    masks["two.weight"][4] = False
    masks["three.weight"][:, 4] = False
    assert limit.spent(masks, keep) == TOTAL - 1 - 24 - 3


def test_multiplications_do_not_count_biases() -> None:
    limit = limit_of(job("macs=0.5"))
    assert limit.spent(everything(), {}) == TOTAL - 39
    assert limit.allowed == pytest.approx(0.5 * (TOTAL - 39))


def test_no_budget_and_one_out_of_reach() -> None:
    assert limit_of(job(None)) is None
    with pytest.raises(BudgetError, match="never pruned cost 3"):
        limit_of(job("params=2"))
