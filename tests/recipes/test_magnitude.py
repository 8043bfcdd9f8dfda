import pytest
import torch

from probcomp.errors import BudgetError, InputError
from probcomp.priors import Independent
from probcomp.recipes.magnitude import affordable, run
from tests.recipes.jobs import job
from tests.recipes.nets import trained

WEIGHTS = ["one.weight", "two.weight", "three.weight"]
BIASES = 24 + 12 + 3


def test_the_budget_is_spent_to_the_last_weight():
    total = sum(p.numel() for p in trained().parameters())
    assert affordable(job("params=0.3"), WEIGHTS) == int(0.3 * total) - BIASES
    assert affordable(job("params=1.0"), WEIGHTS) == total - BIASES
    count = affordable(job("macs=0.3"), WEIGHTS)
    assert count == int(0.3 * (total - BIASES))  # every weight of this network is used once
    with pytest.raises(BudgetError, match="never pruned cost 39"):
        affordable(job("params=20"), WEIGHTS)


def test_the_largest_weights_stay():
    outcome = run(job("params=0.3"))
    dense = dict(trained().named_parameters())
    kept = torch.cat([dense[n].detach()[outcome.masks[n]].abs() for n in WEIGHTS])
    gone = torch.cat([dense[n].detach()[~outcome.masks[n]].abs() for n in WEIGHTS])
    assert kept.min() >= gone.max()
    for name in WEIGHTS:
        values = dict(outcome.model.named_parameters())[name]
        assert not values[~outcome.masks[name]].any()
    assert not outcome.posterior.weights


def test_it_has_no_prior():
    with pytest.raises(InputError, match="no prior and no settings"):
        run(job("params=0.3", prior=Independent(0.5)))
