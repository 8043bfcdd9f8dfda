"""Single weights after training: budgets, patterns, exactness, memory, and beating simple rules."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import probcomp
from probcomp.allocation import Budget
from probcomp.errors import BudgetError, InputError
from probcomp.evaluation.regularity import measure_regularity
from probcomp.evidence.fisher import Categorical
from probcomp.inference.baselines.magnitude import magnitude_masks
from probcomp.inference.quadratic import Quadratic
from probcomp.priors import Blocks, Chain, GatedChain, Independent, Lattice, NofM
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.post_weights import WeightsConfig, run
from probcomp.recipes.post_weights_decide import believe, choose
from probcomp.recipes.task import Task
from probcomp.structure import apply_masks
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

QUICK = {"measured": 16, "iterations": 5}


def quick(budget: str | None, prior: Any = None, **config: Any) -> tuple[Job, Outcome]:
    given = job(budget, prior=prior, config=WeightsConfig(**(QUICK | config)))
    return given, run(given)


def kept(given: Job, outcome: Outcome) -> int:
    others = sum(p.numel() for n, p in given.model.named_parameters() if n not in outcome.masks)
    return others + sum(int(m.sum()) for m in outcome.masks.values())


def held_loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(Task().loss(model.eval(), clouds(1000, seed=9)))


def clusters(outcome: Outcome) -> int:
    return sum(measure_regularity(m).clusters for m in outcome.masks.values())


def test_the_budget_is_met_and_removed_weights_are_zero() -> None:
    given, outcome = quick("params=0.4")
    total = sum(p.numel() for p in given.model.parameters())
    assert 0.39 * total < kept(given, outcome) <= 0.4 * total
    values = dict(outcome.model.named_parameters())
    for name, mask in outcome.masks.items():
        assert not values[name][~mask].any()
        assert not torch.equal(values[name][mask], given.model.get_parameter(name)[mask])


def test_a_budget_in_macs_is_met() -> None:
    given, outcome = quick("macs=0.5")
    uses = {n: given.uses[n] for n in outcome.masks}
    dense = sum(uses[n] * m.numel() for n, m in outcome.masks.items())
    spent = sum(uses[n] * int(m.sum()) for n, m in outcome.masks.items())
    assert 0.49 * dense < spent <= 0.5 * dense


@pytest.mark.parametrize(
    ("mixing", "largest", "mean"),
    [(0.0, 0.03, 0.003), (0.3, 0.16, 0.03)],
)
def test_inclusion_agrees_with_enumeration_of_all_supports(
    mixing: float, largest: float, mean: float
) -> None:
    """Rows of six inputs, 64 supports each, weights integrated out exactly.

    Rows share a site precision, so with correlated inputs and a spike that is all but zero single
    probabilities are off; the decision is not.
    """
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(200, 6) @ (torch.eye(6) + mixing * normal(6, 6))
    weight = 0.3 * normal(24, 6) * (torch.rand(24, 6, generator=generator) < 0.7)
    quadratic = Quadratic(weight, x.T @ x, 0.0)
    config = WeightsConfig(iterations=60)
    found = believe(quadratic, None, Independent(0.5), field=-1.0, config=config).result
    slab = 1 / float(weight.square().mean())
    supports = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    logs = []
    for s in supports:
        site = torch.where(s > 0, slab, config.spike * slab)
        matrix = quadratic.precision + site.diag()
        quality = (quadratic.linear * torch.linalg.solve(matrix, quadratic.linear.T).T).sum(1)
        logs.append(0.5 * (site.log().sum() - torch.logdet(matrix) + quality) - s.sum())
    exact = torch.stack(logs).softmax(0).T @ supports
    assert float((exact * (1 - exact)).max()) > 0.2  # some are undecided
    error = (found.probability - exact).abs()
    assert float(error.max()) < largest
    assert float(error.mean()) < mean
    mask = choose(found.log_odds, None, 60)
    assert float(exact[mask].sum()) > 0.99 * float(exact.flatten().topk(60).values.sum())


def test_wide_layers_are_judged_without_an_inverse() -> None:
    weight = torch.randn(4, 8, dtype=torch.float64)
    quadratic = Quadratic(weight, 50 * torch.eye(8, dtype=torch.float64))
    both = [
        believe(quadratic, None, None, field=0.0, config=WeightsConfig(widest=w, iterations=60))
        for w in (8, 7)
    ]
    # Decorrelated inputs: both are exact.
    torch.testing.assert_close(both[0].evidence, both[1].evidence, rtol=1e-3, atol=1e-3)


def test_a_memory_limit_changes_nothing() -> None:
    """Without recorded outputs, layer by layer with both models; all sums fit in one pass."""
    _, free = quick("params=0.4")
    _, tight = quick("params=0.4", limit=10**9)
    for name, mask in free.masks.items():
        assert torch.equal(mask, tight.masks[name])
        torch.testing.assert_close(
            free.model.get_parameter(name), tight.model.get_parameter(name), rtol=1e-3, atol=1e-3
        )


def test_sums_on_disk_decide_alike() -> None:
    """In several passes sums are kept in single precision, so only near ties may turn."""
    settings: dict[str, Any] = {"refit": "dense", "rounds": 0}
    _, free = quick("params=0.4", **settings)
    _, tight = quick("params=0.4", limit=8 * (2 * 24 * 24 + 24 + 12 * 12), **settings)
    same = [float((free.masks[n] == tight.masks[n]).double().mean()) for n in free.masks]
    assert min(same) > 0.98
    assert abs(held_loss(free.model) - held_loss(tight.model)) < 0.02


def test_a_pattern_decides_by_itself() -> None:
    for budget in (None, "params=0.9"):
        _, outcome = quick(budget, NofM(1, 3))
        for mask in outcome.masks.values():
            assert bool((mask.unflatten(-1, (-1, 3)).sum(-1) == 1).all())


def test_whole_tiles_stay() -> None:
    _, outcome = quick("params=0.6", Blocks((3, 3), Independent(0.5)))
    for mask in outcome.masks.values():
        tiles = mask.unflatten(1, (-1, 3)).unflatten(0, (-1, 3)).movedim(1, 2).flatten(2)
        assert bool((tiles.all(-1) | ~tiles.any(-1)).all())
    assert any(not bool(m.all()) for m in outcome.masks.values())


def test_a_lattice_has_fewer_clusters_at_equal_nonzeros() -> None:
    one, plain = quick("params=0.4", reorder=True)
    two, coupled = quick("params=0.4", Lattice(0.0, 1.2), scale=300.0)
    assert abs(kept(one, plain) - kept(two, coupled)) <= 0.01 * kept(one, plain)
    assert clusters(coupled) < clusters(plain)


def test_a_gate_empties_whole_rows_at_equal_nonzeros() -> None:
    one, plain = quick("params=0.4", reorder=True)
    two, gated = quick("params=0.4", GatedChain(0.5, Chain.from_coupling(0.0, 0.5)))
    assert abs(kept(one, plain) - kept(two, gated)) <= 0.01 * kept(one, plain)

    def empty(outcome: Outcome) -> int:
        return sum(int((~m.any(1)).sum()) for m in outcome.masks.values())

    assert empty(gated) > empty(plain)


def test_an_order_of_units_leaves_the_function_as_it_was() -> None:
    given, outcome = quick("params=1.0", reorder=True, refit="none", rounds=0)
    assert outcome.orders
    x = clouds(50)[0]
    torch.testing.assert_close(outcome.model(x), given.model(x), rtol=1e-4, atol=1e-4)
    moved = [torch.equal(o, torch.arange(len(o))) for o in outcome.orders.values()]
    assert not all(moved)


def test_it_loses_less_than_magnitude_without_tuning_and_than_no_refit() -> None:
    given, ours = quick("params=0.25")
    count = sum(int(m.sum()) for m in ours.masks.values())
    plain = magnitude_masks(given.model, count, names=list(ours.masks))
    model = apply_masks(copy.deepcopy(given.model), plain)
    _, unrefitted = quick("params=0.25", refit="none")
    assert held_loss(ours.model) < held_loss(model)
    assert held_loss(ours.model) < held_loss(unrefitted.model)


def test_the_report_has_the_predicted_loss_beside_the_measured_one() -> None:
    found = probcomp.compress(
        job(None).model,
        clouds(),
        budget=Budget(params=0.4),
        method="turbo-vbi-post-weights",
        config=WeightsConfig(**QUICK),
        progress=False,
    )
    assert found.report.prediction is not None
    assert found.report.prediction.increase > 0
    assert found.report.nll is not None
    assert not found.report.calibrated
    assert any("scores" in w for w in found.report.warnings)
    assert found.report.budget[0].achieved <= 0.4


def test_the_same_seed_gives_the_same_masks() -> None:
    first, second = (quick("params=0.4")[1] for _ in range(2))
    assert all(torch.equal(first.masks[n], second.masks[n]) for n in first.masks)


@pytest.mark.parametrize(
    ("budget", "prior", "error", "words"),
    [
        (None, NofM(2, 5), InputError, "does not fit one.weight"),
        ("params=0.5", "lattice", InputError, "must be a prior"),
        ("params=0.4", NofM(1, 2), BudgetError, "params="),
        ("params=0.01", None, BudgetError, "out of reach"),
    ],
)
def test_what_cannot_be_met_is_refused(
    budget: str | None, prior: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        quick(budget, prior)


def test_units_that_weights_do_not_have_are_refused() -> None:
    with pytest.raises(BudgetError, match="latency_ms"):
        probcomp.compress(
            job(None).model,
            clouds(),
            budget=Budget(latency_ms=1.0),
            method="turbo-vbi-post-weights",
            progress=False,
        )


@pytest.mark.parametrize("changes", [{"scale": 0.0}, {"spike": 1.0}, {"refit": "some"}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        WeightsConfig(**changes)


def test_choose_takes_the_highest() -> None:
    odds = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.0, 1.0, -2.0, -3.0]])
    wanted: Tensor = torch.tensor([[True, False, True, False], [False, True, False, False]])
    assert torch.equal(choose(odds, None, 3), wanted)
    paired = choose(odds, NofM(1, 2), 0)
    assert torch.equal(
        paired, torch.tensor([[True, False, True, False], [False, True, True, False]])
    )


def test_the_forecast_of_a_classifier_is_in_nats_of_its_own_loss() -> None:
    """Not of the softened loss that removals are compared in, where it is a tenth."""
    model = copy.deepcopy(trained())
    with torch.no_grad():
        model.three.weight *= 0.3
        model.three.bias *= 0.3
    config = WeightsConfig(refit="dense", iterations=5)
    outcome = run(job("params=0.5", model=model, config=config))
    x, y = clouds(1000, seed=9)
    with torch.no_grad():
        outputs = outcome.model(x), model(x)
        measured, soft = (float(Categorical(softness=s).divergence(*outputs, y)) for s in (1, 4))
    assert measured > 4 * soft
    assert outcome.forecast is not None
    assert 0.5 * measured < outcome.forecast.increase < 2 * measured
    assert 0.3 * measured < sum(outcome.forecast.by_axis.values()) < 3 * measured
    assert outcome.posterior.meta["predicted_increase"] == outcome.forecast.increase
