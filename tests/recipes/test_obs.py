import pytest
import torch

from probcomp.evidence.obs import Elimination
from probcomp.inference.quadratic import Quadratic
from probcomp.recipes.calibrating import calibrated, kept_columns
from probcomp.recipes.obs import ObsConfig, refitted, removal_keys, run
from tests.recipes.jobs import job

ROUNDING = 1e-4  # float32 weights against a float64 solution


def test_the_survivors_are_refitted_to_the_dense_outputs():
    given = job("params=0.5")
    outcome = run(given)
    with calibrated(given, ObsConfig()) as seen:
        kept = kept_columns(seen, outcome.keep)
        new = refitted(seen, outcome.keep, damping=0.01)
        for name, value in new.items():
            weight, gram = seen.weights[name], seen.statistics[name].gram
            damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram)).double()
            inside = kept[name]
            direct = torch.linalg.solve(damped[inside][:, inside], (weight @ damped)[:, inside].T)
            assert torch.allclose(value[:, inside], direct.T, rtol=1e-8)
    rows = outcome.keep[given.units[1].name]
    columns = outcome.keep[given.units[0].name]
    found = dict(outcome.model.named_parameters())["two.weight"].detach()
    expected = new["two.weight"].float()
    assert torch.allclose(found[rows][:, columns], expected[rows][:, columns], atol=ROUNDING)
    assert not found[~rows].any()
    assert not found[:, ~columns].any()


def test_the_refit_helps_on_the_calibration_samples():
    given = job("params=0.4")
    x = given.train[0]
    with torch.no_grad():
        dense = given.model(x)
        errors = [
            float(
                (run(job("params=0.4", config=ObsConfig(refit=r))).model(x) - dense).square().sum()
            )
            for r in (True, False)
        ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("allocation", ["relative", "absolute", "uniform"])
def test_keys_follow_the_greedy_order(allocation: str):
    one = torch.ones(1, 1, dtype=torch.float64)
    layer = Quadratic(20**0.5 * one, one, 0.0)  # an output of zero costs 10
    cost = torch.tensor([1.0, 4.0, 3.0]).double()
    found = Elimination(torch.tensor([2, 0, 3]), cost, [(layer, torch.tensor([[0]]))])
    keys = removal_keys(found, 4, cost=2.0, allocation=allocation)
    assert torch.isinf(keys[1])
    expected = {
        "relative": [1 / 20, 4 / 20, 4 / 20],
        "absolute": [0.5, 2.0, 2.0],
        "uniform": [0.125, 0.375, 0.625],
    }[allocation]
    assert keys[found.order].tolist() == pytest.approx(expected)
