"""A budget as costs and a share."""

import pytest

from probcomp.errors import BudgetError
from probcomp.recipes.share import cost_and_share
from tests.recipes.jobs import job
from tests.recipes.nets import trained


def test_costs_of_the_units() -> None:
    total = sum(p.numel() for p in trained().parameters())
    assert cost_and_share(job("params=0.25")) == (None, 0.25)
    assert cost_and_share(job(f"params={total // 2}"))[1] == pytest.approx(total // 2 / total)
    cost, share = cost_and_share(job("macs=0.25"))
    assert share == 0.25
    assert cost is not None
    assert cost["one.weight"] == 1.0  # one multiplication a sample for each weight
    assert cost["one.bias"] == 0.0
    with pytest.raises(BudgetError, match="more than the dense"):
        cost_and_share(job(f"params={2 * total}"))
    assert cost_and_share(job(None)) == (None, None)
