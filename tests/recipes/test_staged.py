import pytest
import torch

import probcomp
from probcomp.errors import BudgetError, InputError
from probcomp.inference.baselines import IterativeConfig, PDPConfig
from probcomp.priors import Independent
from probcomp.recipes.methods import METHODS
from probcomp.recipes.staged import PDP, fisher_targets
from probcomp.recipes.task import Task
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

QUICK = {
    "iterative-magnitude": IterativeConfig(epochs=3, stages=2, stage_epochs=1),
    "obd-staged": IterativeConfig(epochs=3, stages=2, stage_epochs=1, samples=300),
    "obs-staged": IterativeConfig(epochs=3, stages=2, stage_epochs=1, samples=300),
    "pdp": PDPConfig(epochs=4, refit_epochs=3, refresh=1),
}


@pytest.mark.parametrize("name", QUICK)
def test_the_budget_is_met_and_nearly_spent(name: str) -> None:
    result = probcomp.compress(
        trained(), clouds(), method=name, budget="params=0.2", config=QUICK[name], progress=False
    )
    # A weight more may bring back a unit with its bias.
    assert 0.185 < result.report.budget[0].achieved <= 0.2
    assert METHODS[name].name == name
    assert not METHODS[name].own_rule


def test_a_budget_is_needed() -> None:
    with pytest.raises(BudgetError, match="needs a budget"):
        probcomp.compress(trained(), clouds(), budget=None, method="pdp", progress=False)


def test_targets_are_drawn_from_the_models_own_probabilities() -> None:
    model, (x, y) = trained(), clouds(3000)
    resample = fisher_targets(Task())
    drawn = resample(model, (x, y), torch.Generator().manual_seed(0))[-1]
    expected = model(x).softmax(1).mean(0)
    found = torch.bincount(drawn, minlength=3) / len(drawn)
    # Five standard errors of 3000 draws.
    assert float((found - expected).abs().max().detach()) < 5 * 0.5 / 3000**0.5
    real = resample(model, (x, torch.zeros(3000, 3)), torch.Generator().manual_seed(0))[-1]
    assert float((real - model(x)).std().detach()) == pytest.approx(1, abs=0.05)
    assert fisher_targets(Task(lambda outputs, targets: outputs.sum())) is None


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(InputError, match="config must be a PDPConfig"):
        PDP.run(job("params=0.5", config=IterativeConfig()))
    with pytest.raises(InputError, match="no support prior"):
        PDP.run(job("params=0.5", prior=Independent(0.5)))
