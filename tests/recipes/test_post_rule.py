"""Without a budget: probabilities through the whole recipe, on teachers whose support is known."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from probcomp.allocation.counts import weight_macs
from probcomp.evidence.fisher import Gaussian
from probcomp.priors import Chain, Independent
from probcomp.priors.base import SupportPrior
from probcomp.recipes import post_rule
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.methods import METHODS
from probcomp.recipes.post_training import run
from probcomp.recipes.task import Task
from probcomp.structure import trace

ROWS, UNITS, INPUTS, OUTPUTS = 1024, 32, 12, 6
CALIBRATED = 0.05
"""Expected calibration error that is allowed; of about 1,000 units, sampling alone makes 0.02."""


def teacher(seed: int, support: Tensor, scale: float) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network whose read-out is the least-squares fit to a teacher that uses some units only."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.Tanh(), nn.Linear(UNITS, OUTPUTS)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        x = torch.randn(ROWS, INPUTS, generator=g, dtype=torch.float64)
        hidden = torch.tanh(net[0](x))
        weight = scale * torch.randn(OUTPUTS, UNITS, generator=g, dtype=torch.float64) * support
        noise = torch.randn(ROWS, OUTPUTS, generator=g, dtype=torch.float64)
        y = hidden @ weight.T + net[2].bias + noise
        design = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)
        solution = torch.linalg.lstsq(design, y).solution
        net[2].weight.copy_(solution[:-1].T)
        net[2].bias.copy_(solution[-1])
    return net.eval(), (x, y)


@functools.cache
def outline() -> Job:
    net, data = teacher(0, torch.ones(UNITS), 0.1)
    example = (data[0][:2],)
    structure = trace(net, example)
    return Job(
        model=net,
        task=Task(likelihood=Gaussian()),
        train=data,
        structure=structure,
        units=removable(structure, ("neuron",)),
        budget=None,
        uses=weight_macs(net, lambda m: m(*example), 2),
    )


def probabilities(truth: SupportPrior, belief: SupportPrior, scale: float, seeds: int) -> Tensor:
    """Probability and truth of every unit, [2, units], over several teachers."""
    found = []
    for seed in range(seeds):
        g = torch.Generator().manual_seed(seed)
        support = truth.sample((UNITS,), generator=g)
        net, data = teacher(seed, support, scale)
        outcome = run(replace(outline(), model=net, train=data, prior=belief))
        (unit,) = outcome.posterior.units.values()
        (keep,) = outcome.keep.values()
        if bool((unit.probability > 0.5).any()):  # an axis keeps one unit at least
            assert torch.equal(keep, unit.probability > 0.5)
        assert outcome.posterior.meta["price"] == 0
        assert not any("scores" in w for w in outcome.warnings)
        assert post_rule.UNCHECKED in outcome.warnings
        assert outcome.posterior.meta["calibrated"] is False
        found.append(torch.stack([unit.probability.double(), support.double()]))
    return torch.cat(found, 1)


def calibration_error(found: Tensor, bins: int = 10) -> float:
    probability, truth = found
    which = (probability * bins).long().clamp_max(bins - 1)
    gaps = [
        (which == b).double().mean() * (probability[which == b] - truth[which == b]).mean().abs()
        for b in range(bins)
        if bool((which == b).any())
    ]
    return float(sum(gaps))


def brier(found: Tensor) -> float:
    return float((found[0] - found[1]).square().mean())


def test_probabilities_are_calibrated() -> None:
    parts = [
        probabilities(Independent(d), Independent(d), scale, 8)
        for d, scale in ((0.3, 0.05), (0.3, 0.1), (0.5, 0.1), (0.5, 0.2))
    ]
    found = torch.cat(parts, 1)
    assert calibration_error(found) <= CALIBRATED
    assert brier(found) < 0.6 * float(found[1].var())  # and they say something


def test_a_prior_that_knows_of_clusters_helps() -> None:
    truth = Chain(0.05, 0.1)
    clustered = probabilities(truth, truth, 0.05, 12)
    alone = probabilities(truth, Independent(1 / 3), 0.05, 12)
    assert brier(clustered) < 0.9 * brier(alone)
    assert calibration_error(clustered) <= 2 * CALIBRATED  # 384 units


def test_the_method_says_that_it_has_a_rule_of_its_own() -> None:
    assert METHODS["turbo-vbi-post"].own_rule


@pytest.mark.parametrize("density", [0.01, 0.99])
def test_the_prior_moves_what_stays(density: float) -> None:
    net, data = teacher(1, torch.ones(UNITS), 0.03)
    outcome = run(replace(outline(), model=net, train=data, prior=Independent(density)))
    (keep,) = outcome.keep.values()
    even = run(replace(outline(), model=net, train=data)).keep
    (other,) = even.values()
    assert (int(keep.sum()) - int(other.sum())) * (density - 0.5) > 0


def test_probabilities_that_have_not_settled_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = teacher(1, torch.ones(UNITS), 0.03)
    given = replace(outline(), model=net, train=data)
    (name,) = (axis.name for axis in given.units)
    assert not any("settled" in w for w in run(given).warnings)
    monkeypatch.setattr(post_rule, "ITERATIONS", 1)
    assert any(f"{name} have not settled" in w for w in run(given).warnings)


def test_an_axis_that_would_lose_all_keeps_the_likeliest_and_says_so() -> None:
    net, data = teacher(1, torch.zeros(UNITS), 0.1)
    outcome = run(replace(outline(), model=net, train=data, prior=Independent(1e-4)))
    (keep,), (unit,) = outcome.keep.values(), outcome.posterior.units.values()
    assert keep.nonzero().flatten().tolist() == [int(unit.log_odds.argmax())]
    assert any(w.startswith("0 units") for w in outcome.warnings)
