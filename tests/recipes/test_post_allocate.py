"""Tempering and the common price with a meter that follows a known law."""

import pytest
import torch

from probcomp.allocation.curves import allocate
from probcomp.recipes.post_allocate import _equal_shares, temper, temper_together
from probcomp.recipes.post_config import PostConfig
from probcomp.recipes.post_evidence import Evidence
from probcomp.recipes.post_units import dense_quadratic, dense_refit, kept_columns
from probcomp.recipes.units import Spending
from tests.recipes.posts import Stage, stage

POWER = 1.2
EXCHANGE = 3.0


class LawfulMeter:
    """Measures each axis by its own multiple of the predicted loss; several by their sum."""

    def __init__(self, found: Stage, factors: dict[str, float]) -> None:
        self.found, self.factors = found, factors
        self.calls: list[list[str]] = []

    def increase(self, changes, keep=None) -> float:
        self.calls.append(sorted(changes))
        total = 0.0
        for name, judged in self.found.judged.items():
            (read,) = self.found.reads[name]
            if read.parameter in changes:
                gone = int((changes[read.parameter][1] == 0).all(0).sum())
                total += self.factors[name] * float(judged.loss[gone]) ** POWER
        return total

    def plan(self, changes, keep=None) -> tuple[float, float]:
        return EXCHANGE * self.increase(changes, keep), EXCHANGE


def tempered(config: PostConfig, factors: tuple[float, float] = (0.5, 20.0)):
    found = stage(config)
    meter = LawfulMeter(found, dict(zip(found.judged, factors)))
    evidence = Evidence(found.seen, meter, None)
    spending = Spending.of(found.job)
    return found, meter, evidence, spending


def test_a_law_that_holds_is_found_and_gives_the_allocation_of_its_true_curves() -> None:
    found, meter, evidence, spending = tempered(PostConfig(rounds=4))
    laws, result = temper(found.context, found.judged, evidence, spending, lambda text: None)
    curves = {n: meter.factors[n] * j.loss**POWER for n, j in found.judged.items()}
    sizes = {n: j.axis.size for n, j in found.judged.items()}
    wanted = allocate(curves, sizes, spending.cost, spending.allowed)
    assert dict(result.removed) == dict(wanted.removed)
    for name, judged in found.judged.items():
        gone = result.removed[name]
        expected = float(laws[name](judged.loss[gone]))
        assert expected == pytest.approx(float(curves[name][gone]), rel=0.05)
    assert all(len(call) == 1 for call in meter.calls)


def test_without_rounds_predictions_are_trusted() -> None:
    found, meter, evidence, spending = tempered(PostConfig(rounds=0))
    laws, result = temper(found.context, found.judged, evidence, spending, lambda text: None)
    assert meter.calls == []
    sizes = {n: j.axis.size for n, j in found.judged.items()}
    plain = allocate(
        {n: j.loss for n, j in found.judged.items()}, sizes, spending.cost, spending.allowed
    )
    assert dict(result.removed) == dict(plain.removed)
    keep = {n: found.judged[n].keep(m) for n, m in result.removed.items()}
    joint, exchange = temper_together(found.context, found.judged, evidence, laws, result, keep)
    assert float(joint(torch.tensor(0.3))) == pytest.approx(0.3)
    assert exchange == 1


def test_the_plan_is_measured_at_once_in_nats_of_the_real_loss() -> None:
    found, meter, evidence, spending = tempered(PostConfig(rounds=2))
    laws, result = temper(found.context, found.judged, evidence, spending, lambda text: None)
    keep = {n: found.judged[n].keep(m) for n, m in result.removed.items()}
    joint, exchange = temper_together(found.context, found.judged, evidence, laws, result, keep)
    assert exchange == EXCHANGE
    assert meter.calls[-1] == ["three.weight", "two.weight"]
    plan = EXCHANGE * sum(
        meter.factors[n] * float(j.loss[result.removed[n]]) ** POWER
        for n, j in found.judged.items()
    )
    alone = sum(float(laws[n](j.loss[result.removed[n]])) for n, j in found.judged.items())
    assert float(joint(torch.tensor(alone, dtype=torch.float64))) == pytest.approx(plan)


def test_equal_shares_meet_the_budget_and_no_more() -> None:
    found, _, _, spending = tempered(PostConfig())
    removed = _equal_shares(found.judged, spending)
    sizes = {n: j.axis.size for n, j in found.judged.items()}
    shares = [removed[n] / sizes[n] for n in sizes]
    assert max(shares) - min(shares) <= 1 / min(sizes.values())
    assert spending.cost({n: sizes[n] - m for n, m in removed.items()}) <= spending.allowed
    less = {n: sizes[n] - m + 1 for n, m in removed.items()}
    assert spending.cost(less) > spending.allowed


@pytest.mark.parametrize("limit", [None, 10**9])
def test_likelihoods_are_kept_unless_memory_is_limited_and_removals_are_the_same(limit) -> None:
    found = stage(PostConfig(limit=limit))
    for name, judged in found.judged.items():
        first = found.context.factors(found.reads[name], found.seen)
        again = found.context.factors(found.reads[name], found.seen)
        assert (first is again) == (limit is None)
        (read,) = found.reads[name]
        seen = found.seen[read.parameter]
        keep = judged.keep(2)
        _, new, gain = found.context.removal(judged, keep, found.seen)[read.parameter]
        quadratic = dense_quadratic(found.job.model, read, seen, damping=None, centred=True)
        columns = kept_columns(read, keep, quadratic.size)
        wanted, moved = dense_refit(quadratic, seen, columns, centred=True)
        torch.testing.assert_close(new.double(), wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(gain.double(), moved, rtol=1e-3, atol=1e-4)
