import pytest
import torch

from probcomp.evidence.wanda import scores
from probcomp.recipes.calibrating import calibrated
from probcomp.recipes.wanda_sp import WandaConfig, run
from tests.recipes.jobs import job


@pytest.mark.parametrize("allocation", ["uniform", "standardised"])
def test_the_units_with_the_largest_scores_stay(allocation: str):
    config = WandaConfig(allocation=allocation)
    given = job("params=0.5", config=config)
    outcome = run(given)
    with calibrated(given, config) as seen:
        for axis in given.units:
            (read,) = seen.reads[axis.name]
            name = read.parameter
            found = scores(seen.weights[name], seen.statistics[name], read.columns)
            kept = outcome.keep[axis.name]
            assert found[kept].min() >= found[~kept].max()
    shares = [float(outcome.keep[a.name].double().mean()) for a in given.units]
    if allocation == "uniform":
        assert abs(shares[0] - shares[1]) <= 1.5 / 12  # within a unit of the smaller axis


def test_weights_that_stay_are_the_dense_ones():
    given = job("params=0.5")
    outcome = run(given)
    new = dict(outcome.model.named_parameters())
    for name, dense in given.model.named_parameters():
        assert bool(((new[name] == dense) | (new[name] == 0)).all())
    assert not torch.equal(new["two.weight"], dict(given.model.named_parameters())["two.weight"])
