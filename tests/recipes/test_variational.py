import json

import pytest
import torch

import probcomp
from probcomp.errors import InputError
from probcomp.inference import Posterior
from probcomp.inference.baselines import GroupConfig, L0Config, SpikeSlabConfig
from probcomp.priors import Independent
from probcomp.recipes.methods import METHODS
from probcomp.recipes.variational import BC_GNJ, L0
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

QUICK = {"epochs": 4, "batch_size": 64, "noise_rate": 0.1}
OWN_RULE = ("sparse-vd", "bc-gnj", "bc-ghs", "l0", "sbp", "vibnet", "spike-slab-vb")


@pytest.mark.parametrize("name", OWN_RULE)
def test_records(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.own_rule
    assert method.probabilistic == (name == "spike-slab-vb")


def test_without_a_budget_the_methods_own_rule_decides(tmp_path) -> None:
    result = probcomp.compress(
        trained(),
        clouds(),
        budget=None,
        method="bc-gnj",
        config=GroupConfig(**QUICK),
        progress=False,
    )
    assert result.report.budget == ()
    assert any("no probabilities" in text for text in result.report.warnings)
    meta = result.posterior.meta
    json.dumps(dict(meta))  # it is saved as JSON
    assert set(meta["bits"]) == {"one.weight", "two.weight", "three.weight"}
    result.save(tmp_path)
    assert Posterior.load(tmp_path).meta["method"] == "bc-gnj"


def test_a_budget_is_met_and_units_really_go() -> None:
    result = probcomp.compress(
        trained(), clouds(), method="l0", budget="params=0.4", config=L0Config(**QUICK),
        progress=False,
    )  # fmt: skip
    assert result.report.budget[0].achieved <= 0.4
    assert result.model.one.out_features < 24


def test_probabilities_where_there_are_some() -> None:
    config = SpikeSlabConfig(**QUICK)
    result = probcomp.compress(
        trained(), clouds(), method="spike-slab-vb", budget="params=0.5", config=config,
        progress=False,
    )  # fmt: skip
    weight = result.posterior.weights["one.weight"]
    torch.testing.assert_close(weight.probability, torch.sigmoid(weight.log_odds))
    assert not any("no probabilities" in text for text in result.report.warnings)


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(InputError, match="config must be a L0Config, got GroupConfig"):
        L0.run(job("params=0.5", config=GroupConfig()))
    with pytest.raises(InputError, match="its own prior"):
        BC_GNJ.run(job("params=0.5", prior=Independent(0.5)))
