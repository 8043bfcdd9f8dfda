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


def network(g: torch.Generator) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.Tanh(), nn.Linear(UNITS, OUTPUTS)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return net.eval()


@torch.no_grad()
def taught(
    net: nn.Sequential, x: Tensor, support: Tensor, scale: float, g: torch.Generator
) -> Tensor:
    """Targets of a teacher that uses some units only; the read-out becomes their fit."""
    hidden = torch.tanh(net[0](x))
    weight = scale * torch.randn(OUTPUTS, UNITS, generator=g, dtype=torch.float64) * support
    noise = torch.randn(ROWS, OUTPUTS, generator=g, dtype=torch.float64)
    y = hidden @ weight.T + net[2].bias + noise
    design = torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)
    solution = torch.linalg.lstsq(design, y).solution
    net[2].weight.copy_(solution[:-1].T)
    net[2].bias.copy_(solution[-1])
    return y


def teacher(seed: int, support: Tensor, scale: float) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network whose read-out is the least-squares fit to a teacher that uses some units only."""
    g = torch.Generator().manual_seed(seed)
    net = network(g)
    x = torch.randn(ROWS, INPUTS, generator=g, dtype=torch.float64)
    return net, (x, taught(net, x, support, scale, g))


@functools.cache
def outline() -> Job:
    return job_of(*teacher(0, torch.ones(UNITS), 0.1))


def job_of(net: nn.Module, data: tuple[Tensor, ...]) -> Job:
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


def test_what_goes_has_a_forecast() -> None:
    """On fresh samples of the same inputs. Measured: 1.0 times the forecast."""
    g = torch.Generator().manual_seed(5)
    net = network(g)
    x = torch.randn(2 * ROWS, INPUTS, generator=g, dtype=torch.float64)
    half = (torch.arange(UNITS) < UNITS // 2).double()
    y = taught(net, x[:ROWS], half, 0.05, g)
    outcome = run(replace(outline(), model=net, train=(x[:ROWS], y), prior=Independent(0.2)))
    (keep,) = outcome.keep.values()
    assert not keep.all()
    assert outcome.forecast is not None
    with torch.no_grad():
        change = outcome.model(x[ROWS:]) - net(x[ROWS:])
    measured = 0.5 * float(change.square().sum(1).mean())
    assert 0.7 < outcome.forecast.increase / measured < 1.4
    assert sum(outcome.forecast.by_axis.values()) == pytest.approx(measured, rel=0.4)
    assert outcome.posterior.meta["predicted_increase"] == outcome.forecast.increase


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


class Branches(nn.Module):
    """Several networks on the same inputs, outputs side by side: as many axes."""

    def __init__(self, branches: list[nn.Sequential]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def branched(
    seed: int, count: int, density: float, scale: float, **changes: object
) -> tuple[Tensor, Tensor]:
    """Probabilities of all units of a network with several axes, and their truth."""
    g = torch.Generator().manual_seed(seed)
    nets = [network(g) for _ in range(count)]
    supports = [Independent(density).sample((UNITS,), generator=g).double() for _ in nets]
    x = torch.randn(ROWS, INPUTS, generator=g, dtype=torch.float64)
    y = [taught(net, x, support, scale, g) for net, support in zip(nets, supports)]
    job = replace(job_of(Branches(nets), (x, torch.cat(y, 1))), **changes)
    units = run(job).posterior.units
    return torch.cat([unit.probability.double() for unit in units.values()]), torch.cat(supports)


def test_how_many_are_needed_is_learnt_from_all_axes() -> None:
    """A fifth is needed. Measured: even odds expect 3.5 times as many, learnt ones 1.2 times."""
    learnt, truth = branched(1, 3, 0.2, 0.1)
    even, _ = branched(1, 3, 0.2, 0.1, prior=Independent(0.5))
    assert abs(float(learnt.sum() / truth.sum()) - 1) < 0.5
    assert float(even.sum() / truth.sum()) > 2
    assert brier(torch.stack([learnt, truth])) < 0.7 * brier(torch.stack([even, truth]))


def test_axes_of_many_units_or_columns_are_learnt_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together, truth = branched(0, 2, 0.2, 0.2)
    monkeypatch.setattr(post_rule, "ep_layers", None)  # not called
    for name in ("FEW", "NARROW"):
        with monkeypatch.context() as patch:
            patch.setattr(post_rule, name, UNITS - 1)
            alone, _ = branched(0, 2, 0.2, 0.2)
        assert not torch.allclose(alone, together, atol=1e-3)
        assert brier(torch.stack([alone, truth])) < 0.5 * float(truth.var())


@pytest.mark.slow
def test_what_is_learnt_is_calibrated_where_even_odds_are_not() -> None:
    """1,024 units. Measured: 0.039 against 0.089."""
    cases = [
        (seed, 4, density, scale)
        for seed in range(4)
        for density, scale in ((0.2, 0.1), (0.6, 0.1))
    ]
    learnt = torch.cat([torch.stack(branched(*case)) for case in cases], 1)
    even = torch.cat([torch.stack(branched(*case, prior=Independent(0.5))) for case in cases], 1)
    assert calibration_error(learnt) <= CALIBRATED
    assert calibration_error(even) > CALIBRATED
    assert brier(learnt) < brier(even)
