"""Whole experts: orders against all subsets, planted experts, exact cuts, and what is refused."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import probcomp
from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.errors import BudgetError, InputError
from probcomp.evidence.fisher import Categorical
from probcomp.priors import Independent
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.post_config import PostConfig
from probcomp.recipes.post_experts import (
    LOOKS,
    Weighing,
    expert_scores,
    experts_by_posterior,
    judge_experts,
    removal_order,
)
from probcomp.recipes.post_temper import Meter
from probcomp.recipes.post_training import run
from probcomp.recipes.post_units import Judged
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending
from probcomp.structure import Routers, load, save, silence, trace
from tests.recipes.mixtures import Listed, Mixture, language_model, tokens

QUICK = PostConfig(measured=16, batch_size=16)
X = torch.randn(192, 6, generator=torch.Generator().manual_seed(1))


def job(model: Any, budget: Budget | None, kinds: tuple[str, ...] = ("expert",)) -> Job:
    model = model.eval()
    structure = trace(model, (X[:2],))
    with torch.no_grad():
        labels = model(X).argmax(-1)
    return Job(
        model=model,
        task=Task(),
        train=(X, labels),
        structure=structure,
        units=removable(structure, kinds),
        budget=budget,
        uses=weight_macs(model, lambda m: m(X[:2]), 2),
        config=QUICK,
    )


def measured(given: Job) -> tuple[Any, Any]:
    """The axis of experts, and the loss of those that stay, on all samples."""
    (axis,) = (a for a in given.units if a.kind == "expert")
    routers = Routers(given.structure, [axis])
    task = replace(given.task, likelihood=Categorical())
    meter = Meter(given.model, task, Categorical(), [given.train], {}, routers=routers)
    return axis, lambda keep: meter.increase({}, {axis.name: keep})


def lone(size: int, *removed: int) -> Tensor:
    keep = torch.ones(size, dtype=torch.bool)
    keep[list(removed)] = False
    return keep


@pytest.mark.parametrize("replay", [True, False])
def test_the_meter_measures_what_the_silenced_model_loses(replay: bool) -> None:
    given = job(Mixture(chosen=2), None)
    (axis,) = given.units
    keep = lone(5, 1, 4)
    task = replace(given.task, likelihood=Categorical())
    routers = Routers(given.structure, [axis])
    batches = [tuple(t[:90] for t in given.train), tuple(t[90:] for t in given.train)]
    meter = Meter(given.model, task, Categorical(), batches, {}, replay=replay, routers=routers)
    found = meter.increase({}, {axis.name: keep})
    with torch.no_grad():
        silent = silence(given.structure, given.model, {axis.name: keep})(X)
        expected = Categorical().divergence(silent, given.model(X), given.train[1])
    assert float(expected) > 0.01
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert meter.increase({}, {axis.name: lone(5)}) == pytest.approx(0, abs=1e-9)


def test_the_useless_expert_goes_first_and_one_of_two_alike_next() -> None:
    given = job(Mixture(), None)
    axis, loss = measured(given)
    order, curve = removal_order(axis.size, axis.size - axis.min_keep, loss)
    assert order[0] == 0
    assert int(order[1]) in (1, 2)
    assert {int(order[1]), int(order[2])} != {1, 2}  # the other is dear by then
    assert float(curve[1]) == pytest.approx(0, abs=1e-6)
    assert float(curve[2]) < 0.1 * float(curve[3])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_near_the_best_of_all_subsets(seed: int) -> None:
    given = job(Mixture(experts=6, chosen=2, seed=seed), None)
    _, loss = measured(given)
    order, curve = removal_order(6, 4, loss)
    for gone in range(1, 5):
        assert float(curve[gone]) == pytest.approx(loss(lone(6, *order[:gone].tolist())))
        sets = itertools.combinations(range(6), gone)
        values = sorted(loss(lone(6, *s)) for s in sets)
        if gone == 1:
            assert float(curve[1]) == pytest.approx(values[0])
        assert float(curve[gone]) <= 1.5 * values[0] + 1e-6
        assert float(curve[gone]) <= values[len(values) // 3]


def test_experts_that_stand_in_for_each_other_do_not_both_go() -> None:
    """Alone each of a pair costs nothing; together they cost most."""
    pairs = [(0, 1), (2, 3)]

    def loss(keep: Tensor) -> float:
        gone = {e for e in range(6) if not keep[e]}
        return sum(10.0 for p in pairs if set(p) <= gone) + sum(1.0 for e in (4, 5) if e in gone)

    order, curve = removal_order(6, 4, loss)
    assert {tuple(sorted(order[:2].tolist()))} <= {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert sorted(order[2:].tolist()) == [4, 5]
    assert curve.tolist() == [0, 0, 0, 1, 2]


def test_twins_among_many_are_told_apart() -> None:
    """Twenty experts cost 1 to 1.2, and of ten pairs each one nothing while its twin is there."""

    def loss(keep: Tensor) -> float:
        calls.append(1)
        gone = (~keep).nonzero().flatten().tolist()
        pairs = sum(10.0 for e in range(10) if e in gone and e + 10 in gone)
        return pairs + sum(1 + 0.01 * (e - 20) for e in gone if e >= 20)

    calls: list[int] = []
    order, curve = removal_order(40, 38, loss)
    assert len({e % 10 for e in order[:10].tolist()}) == 10
    assert float(curve[10]) == 0
    assert sorted(order[10:30].tolist()) == list(range(20, 40))
    assert len(calls) <= 40 + (LOOKS + 1) * 38


def test_passes_are_bounded_where_every_removal_changes_all_others() -> None:
    calls: list[int] = []
    worth = torch.rand(100, generator=torch.Generator().manual_seed(0)).double()

    def loss(keep: Tensor) -> float:
        calls.append(1)
        gone = int((~keep).sum())
        return gone**3 * float(worth[~keep].sum())

    order, curve = removal_order(100, 90, loss)
    assert len(calls) <= 100 + (LOOKS + 1) * 90
    assert sorted(order.tolist()) == sorted(set(order.tolist()))
    for gone in (1, 40, 90):
        keep = lone(100, *order[:gone].tolist())
        assert float(curve[gone]) == pytest.approx(loss(keep))


def test_nothing_is_measured_where_nothing_may_go() -> None:
    order, curve = removal_order(3, 0, lambda keep: pytest.fail("measured"))
    assert order.tolist() == []
    assert curve.tolist() == [0.0]


def additive(worth: list[float]) -> Any:
    values = torch.tensor(worth, dtype=torch.float64)
    return lambda keep: float(values[~keep].sum())


def axis_of(size: int, least: int) -> Any:
    (axis,) = job(Mixture(), None).units
    return replace(axis, size=size, min_keep=least)


def test_scores_are_conditional_odds_at_the_decision() -> None:
    worth = [0.1, 0.02, 0.3]
    weighing = Weighing(units=100, price=4.0, prior=Independent(0.25))
    found = expert_scores(axis_of(3, 1), lone(3, 1), additive(worth), weighing)
    shift = torch.tensor(0.25).logit().double() - 4.0
    torch.testing.assert_close(found.log_odds, 100 * torch.tensor(worth).double() + shift)
    torch.testing.assert_close(found.probability, torch.sigmoid(found.log_odds))


def test_where_none_can_go_the_best_that_went_takes_a_place() -> None:
    """Swapping has no price."""
    weighing = Weighing(units=100, price=4.0)
    found = expert_scores(axis_of(3, 2), lone(3, 1), additive([0.1, 0.02, 0.3]), weighing)
    expected = torch.tensor([8.0, 2.0 - 4.0, 28.0], dtype=torch.float64)
    torch.testing.assert_close(found.log_odds, expected)


def test_without_a_budget_what_changes_nothing_goes() -> None:
    given = job(Mixture(), None)
    axis, loss = measured(given)
    judged = Judged(axis, (), *removal_order(axis.size, axis.size - axis.min_keep, loss))
    keep, scores = experts_by_posterior(judged, loss, Weighing(units=len(X)))
    assert not bool(keep[0])
    assert int(keep[1:3].sum()) == 1  # of two that are the same
    assert bool(keep[3:].all())
    assert bool((scores.log_odds[keep] > 0).all())
    assert bool((scores.log_odds[~keep] <= 1e-3).all())
    outcome = run(given)
    assert not bool(outcome.keep[axis.name][0])


def test_a_prior_against_experts_removes_more() -> None:
    given = job(Mixture(), None)
    axis, loss = measured(given)
    judged = Judged(axis, (), *removal_order(axis.size, axis.size - axis.min_keep, loss))
    against = Weighing(units=1, prior=Independent(1e-6))
    keep, _ = experts_by_posterior(judged, loss, against)
    assert int(keep.sum()) == axis.min_keep


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_the_budget_is_met_in_whole_experts(removed: int) -> None:
    given = job(Mixture(chosen=2), Budget(params=1.0))
    (axis,) = given.units
    spending = Spending.of(given)
    left = spending.dense - removed * spending.unit_cost(axis)
    outcome = run(replace(given, budget=Budget(params=left)))
    keep = outcome.keep[axis.name]
    assert int(keep.sum()) == 5 - removed
    assert not bool(keep[0])
    probability = outcome.posterior.units[axis.name].probability
    assert float(probability[keep].mean()) > float(probability[~keep].mean())
    assert outcome.forecast is not None
    assert outcome.forecast.by_axis[axis.name] >= 0


def test_as_many_stay_as_the_router_chooses() -> None:
    given = job(Mixture(chosen=2), Budget(params=1.0))
    (axis,) = given.units
    spending = Spending.of(given)
    least = spending.dense - 3 * spending.unit_cost(axis)
    assert int(run(replace(given, budget=Budget(params=least))).keep[axis.name].sum()) == 2
    with pytest.raises(BudgetError, match="out of reach"):
        run(replace(given, budget=Budget(params=least - 1)))


@pytest.mark.parametrize("refit", ["sequential", "one by one", "dense", "none"])
def test_the_smaller_model_is_the_silenced_one(refit: str) -> None:
    """Read-outs behind the experts are refitted on what the remaining experts give."""
    config = replace(QUICK, refit="sequential" if refit == "one by one" else refit)
    if refit == "one by one":
        config = replace(config, limit=10**9)
    found = probcomp.compress(
        Mixture(chosen=2),
        job(Mixture(chosen=2), None).train,
        budget="params=0.55",
        method="turbo-vbi-post",
        config=config,
        progress=False,
    )  # that the two agree is checked by it
    (name,) = (n for n in found.keep if n.endswith("expert"))
    gone = 5 - int(found.keep[name].sum())
    assert gone >= 1
    with torch.no_grad():
        small, dense = found.model(X), Mixture(chosen=2).eval()(X)
    assert float((small - dense).std()) < float(dense.std())


def test_refits_in_one_pass_and_one_by_one_see_the_same_experts() -> None:
    """A router that is a linear layer is not thinned while its scores are watched."""
    given = job(Mixture(chosen=2), Budget(params=0.55), kinds=("expert", "neuron"))
    one = run(given)
    other = run(replace(given, config=replace(QUICK, limit=10**9)))
    (name,) = (a.name for a in given.units if a.kind == "expert")
    assert not bool(one.keep[name].all())
    assert torch.equal(one.keep[name], other.keep[name])
    assert not torch.equal(one.model.head.weight, given.model.head.weight)
    torch.testing.assert_close(one.model.head.weight, other.model.head.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_a_stock_mixture_gets_smaller_and_comes_back(family: str, tmp_path) -> None:
    model, data = language_model(family), tokens()
    found = probcomp.compress(
        model, data, budget="prunable=0.6", method="turbo-vbi-post",
        config=replace(QUICK, refit="none"), test=data, progress=False,
    )  # fmt: skip
    experts = {n: k for n, k in found.keep.items() if n.endswith("expert")}
    assert len(experts) == 2
    assert any(not bool(k.all()) for k in experts.values())
    assert type(found.model) is type(model)
    (line,) = found.report.budget
    assert line.achieved <= 0.6 + 1e-9
    shown = {u.name: u for u in found.report.units}
    assert all(
        shown[n].kind == "expert" and shown[n].kept == int(k.sum()) for n, k in experts.items()
    )
    silent = silence(found.structure, model, dict(found.keep))
    ids = data["input_ids"]
    with torch.no_grad():
        small, expected = found.model(input_ids=ids).logits, silent(input_ids=ids).logits
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-5)
    save(found.model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(input_ids=ids).logits, small)


def test_other_methods_say_who_can(tmp_path) -> None:
    with pytest.raises(InputError, match=r"wanda-sp.*turbo-vbi-post"):
        probcomp.compress(
            Mixture(), job(Mixture(), None).train, budget="params=0.5", method="wanda-sp",
            kinds=("expert",), progress=False,
        )  # fmt: skip


def test_experts_in_a_list_of_modules_stay_and_their_neurons_go() -> None:
    given = job(Listed(), None, kinds=("neuron",))

    def notes(kinds: tuple[str, ...] | None) -> list[str]:
        found = probcomp.compress(
            given.model, given.train, budget="params=0.8", method="turbo-vbi-post", kinds=kinds,
            config=QUICK, progress=False,
        )  # fmt: skip
        assert any(not bool(k.all()) for k in found.keep.values())
        return [n for n in found.report.warnings if "experts of router" in n and "one tensor" in n]

    assert len(notes(None)) == 1
    assert not notes(("neuron",))
    with pytest.raises(InputError, match="one tensor"):
        run(replace(given, units=()))


def test_settings_of_experts_are_checked() -> None:
    with pytest.raises(InputError, match="experts must be at least 1"):
        PostConfig(experts=0)


def test_each_axis_is_measured_on_a_few_samples_of_its_own() -> None:
    given = job(Mixture(), None)
    routers = Routers(given.structure, given.units)
    steps: list[str] = []
    task = replace(given.task, likelihood=Categorical())

    def judged(samples: int) -> Any:
        config = replace(QUICK, experts=samples)
        return judge_experts(
            given, config, task, Categorical(), given.units, routers, given.train, steps.append
        )

    one, other = judged(8), judged(192)
    (name,) = one
    assert steps == [f"judging {name}"] * 2
    assert not torch.equal(one[name].loss, other[name].loss)
    _, loss = measured(given)
    assert float(other[name].loss[2]) == pytest.approx(loss(other[name].keep(2)), rel=1e-5)
