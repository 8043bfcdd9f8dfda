"""Inference after training: budgets, exactness, calibration, and beating simple rules."""

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import probcomp
from probcomp.allocation import Budget
from probcomp.errors import BudgetError, InputError
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.priors import Chain
from probcomp.recipes.likelihoods import likelihood_of
from probcomp.recipes.magnitude_units import MagnitudeUnitsConfig
from probcomp.recipes.methods import METHODS
from probcomp.recipes.post_training import PostConfig, run
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

QUICK = PostConfig(measured=16)
FACTOR = 3.0
"""Largest ratio of a forecast to what is measured on fresh samples; small nets and few samples."""


def left(outcome: Any, given: Any) -> float:
    counts = {a.name: int(outcome.keep[a.name].sum()) for a in given.units}
    return Spending.of(given).cost(counts)


def test_the_budget_is_met_within_one_unit() -> None:
    given = job("params=0.5", config=QUICK)
    outcome = run(given)
    spending = Spending.of(given)
    assert left(outcome, given) <= spending.allowed
    dearest = max(spending.unit_cost(axis) for axis in given.units)
    assert left(outcome, given) > spending.allowed - dearest


def test_removed_units_are_zero_and_the_dense_model_is_untouched() -> None:
    given = job("params=0.5", config=QUICK)
    before = {n: p.clone() for n, p in given.model.named_parameters()}
    outcome = run(given)
    for name, parameter in given.model.named_parameters():
        assert torch.equal(parameter, before[name])
    values = dict(outcome.model.named_parameters())
    for axis in given.units:
        gone = ~outcome.keep[axis.name]
        assert bool(gone.any())
        for member in axis.members:
            slices = values[member.parameter].index_select(member.dim, member.index[gone].flatten())
            assert not slices.any()


def test_it_loses_less_than_magnitude_and_than_no_refit() -> None:
    held = clouds(400, seed=9)
    task = Task()

    def loss(config: Any, method: str = "turbo-vbi-post") -> float:
        outcome = METHODS[method].run(job("params=0.3", config=config))
        with torch.no_grad():
            return float(task.loss(outcome.model.eval(), held))

    ours = loss(QUICK)
    assert ours < loss(MagnitudeUnitsConfig(), "magnitude-units")
    assert ours < loss(PostConfig(measured=16, refit="none"))


def test_probabilities_follow_the_decision_and_the_seed() -> None:
    given = job("params=0.4", config=QUICK)
    first, second = run(given), run(given)
    for name, unit in first.posterior.units.items():
        keep = first.keep[name]
        assert bool(((unit.probability >= 0) & (unit.probability <= 1)).all())
        assert float(unit.probability[keep].mean()) > float(unit.probability[~keep].mean())
        assert torch.equal(unit.probability, second.posterior.units[name].probability)
        assert torch.equal(keep, second.keep[name])


def test_a_prior_enters_the_choice_of_units() -> None:
    """Units that stay are runs under a chain, as many of each axis as without it."""

    def switches(keep: Any) -> int:
        return sum(int((k[1:] != k[:-1]).sum()) for k in keep.values())

    given = job("params=0.4", config=QUICK)
    plain = run(given)
    chained = run(replace(given, prior=Chain.from_coupling(0.0, 8.0)))
    assert switches(chained.keep) < switches(plain.keep)
    for name, keep in plain.keep.items():
        assert int(chained.keep[name].sum()) == int(keep.sum())


def test_what_is_no_prior_is_refused() -> None:
    with pytest.raises(InputError, match="prior over the units"):
        run(job("params=0.4", config=QUICK, prior=0.1))


def test_the_report_says_what_the_probabilities_are() -> None:
    assert any("inclusion scores" in w for w in run(job("params=0.6", config=QUICK)).warnings)


def test_the_forecast_is_near_what_is_measured_on_fresh_samples() -> None:
    given = job(
        "params=0.5", config=PostConfig(measured=500, refit="dense"), train=clouds(2000, seed=3)
    )
    outcome = run(given)
    assert outcome.forecast is not None
    held = clouds(2000, seed=5)
    with torch.no_grad():
        dense, small = (m.eval()(held[0]) for m in (given.model, outcome.model))
        measured = float(Categorical().divergence(small, dense, held[1]))
    assert measured / FACTOR < outcome.forecast.increase < measured * FACTOR


@functools.cache
def tiny_bert() -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    return BertModel(config).eval()


def texts(count: int = 48) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(60, (count, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[::3, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_an_encoder_without_targets_becomes_a_smaller_stock_model(tmp_path) -> None:
    result = probcomp.compress(
        tiny_bert(), texts(), budget="prunable=0.5", config=QUICK, progress=False
    )
    report = result.report
    (line,) = report.budget
    assert line.unit == "prunable"
    assert 0.3 < line.achieved <= 0.5 + 1e-9
    assert report.nll is not None
    assert report.nll.dense.value == pytest.approx(0, abs=1e-6)
    assert report.nll.compressed.value > 0
    assert any("nothing was trained" in w for w in report.warnings)
    assert any("embeddings" in w for w in report.warnings)
    assert type(result.model).__name__ == "BertModel"
    result.save(tmp_path)
    again = probcomp.load(tmp_path / "model").eval()
    batch = texts(4)
    with torch.no_grad():
        first = result.model(**batch).last_hidden_state
        second = again(**batch).last_hidden_state
    assert torch.equal(first, second)


def test_a_budget_out_of_reach_names_the_least_and_the_cure() -> None:
    with pytest.raises(BudgetError, match=r"out of reach.*ask for params=0\.\d+.*prunable=0\.5"):
        probcomp.compress(tiny_bert(), texts(), budget="params=0.1", progress=False)


class HalfRead(nn.Module):
    """Two branches of 10 units; those of the second are read by no module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 3)
        self.bare = nn.Parameter(torch.randn(10, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.one(x))) + torch.relu(self.two(x)) @ self.bare


def test_a_budget_out_of_reach_is_told_in_its_own_unit_with_what_cannot_be_judged() -> None:
    """Each branch owns 100 parameters; one unit of the first must stay."""
    torch.manual_seed(0)
    says = r"prunable=0.2 is out of reach: 0.55 of .*units of two\.\S+, which this method cannot.*"
    with pytest.raises(BudgetError, match=says + r"ask for prunable=0\.55 or more$"):
        probcomp.compress(
            HalfRead(), clouds(), budget="prunable=0.2", method="turbo-vbi-post", progress=False
        )


def test_methods_that_train_ask_for_targets() -> None:
    with pytest.raises(InputError, match=r"magnitude.*needs targets"):
        probcomp.compress(
            tiny_bert(), texts(), budget="params=0.5", method="magnitude", progress=False
        )


def test_turbo_vbi_takes_this_road_for_its_settings() -> None:
    result = probcomp.compress(
        trained(), clouds(), budget="params=0.5", config=QUICK, progress=False
    )
    assert result.report.method == "turbo-vbi-post"
    assert result.posterior.meta["method"] == "turbo-vbi-post"


def test_a_memory_limit_gives_the_same_decision() -> None:
    whole = run(job("params=0.5", config=QUICK))
    few = run(job("params=0.5", config=PostConfig(measured=16, limit=8 * (24 * 25 + 12 * 12))))
    for name, keep in whole.keep.items():
        assert torch.equal(keep, few.keep[name])


def test_likelihoods_are_recognised_by_the_value_of_the_loss() -> None:
    x, y = clouds(8)
    assert likelihood_of(Task(), trained(), (x, y)) == Categorical()
    assert likelihood_of(Task(), nn.Linear(6, 2), (x, torch.randn(8, 2))) == Gaussian()
    assert likelihood_of(Task(lambda z, t: z.square().mean()), trained(), (x, y)) is None


@pytest.mark.parametrize("dead", ["some", "all"])
@pytest.mark.parametrize("method", ["turbo-vbi-post", "obs"])
def test_units_that_never_vary_go_first_and_break_nothing(dead: str, method: str) -> None:
    """Constant units say nothing that a bias cannot; an axis may even give out only zeros."""
    model = copy.deepcopy(trained())
    with torch.no_grad():
        chosen = slice(0, 8) if dead == "some" else slice(None)
        model.one.weight[chosen] = 0
        model.one.bias[chosen] = 1.7 if dead == "some" else -1.0
    # The pull to the dense weights is all that a constant unit costs; keep it small.
    config = PostConfig(measured=16, damping=1e-4) if method == "turbo-vbi-post" else None
    outcome = METHODS[method].run(job("params=0.6", model=model, config=config))
    if dead == "some" and method == "turbo-vbi-post":
        (keep,) = (k for k in outcome.keep.values() if len(k) == 24)
        assert not keep[:8].any()
    for parameter in outcome.model.parameters():
        assert bool(torch.isfinite(parameter).all())
    if outcome.posterior is not None:
        for unit in outcome.posterior.units.values():
            assert bool(torch.isfinite(unit.probability).all())


@functools.cache
def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_texts_with_labels_are_counted_in_tokens_as_those_without() -> None:
    ids = torch.randint(40, (24, 9), generator=torch.Generator().manual_seed(0))
    results = [
        probcomp.compress(
            tiny_llama(), data, budget="prunable=0.6", method="turbo-vbi-post",
            config=PostConfig(measured=4), progress=False,
        )
        for data in ({"input_ids": ids}, {"input_ids": ids, "labels": ids})
    ]  # fmt: skip
    first, second = (r.posterior for r in results)
    assert first.meta["calibration"].endswith("tokens")
    assert second.meta["calibration"] == first.meta["calibration"]
    for name, unit in first.units.items():
        torch.testing.assert_close(second.units[name].probability, unit.probability)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"damping": -1.0}, "damping must be at least 0"),
        ({"refit": "all"}, "refit must be one of"),
        ({"limit": 0}, "positive number of bytes"),
    ],
)
def test_settings_that_make_no_sense(changes, says) -> None:
    with pytest.raises(InputError, match=says):
        PostConfig(**changes)


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(InputError, match="must be a PostConfig"):
        run(job("params=0.5", config=MagnitudeUnitsConfig()))


def test_prunable_is_what_units_own() -> None:
    """6-24-12-3: the units own all but the last bias."""
    from probcomp.recipes.compress import prunable_range

    given = job("params=0.5")
    dense, floor = prunable_range(given.model, given.structure, given.units)
    assert dense == 6 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3
    assert floor == 3
    assert Budget.parse("prunable=50%") == Budget(prunable=0.5)


def sharp() -> nn.Module:
    model = copy.deepcopy(trained())
    with torch.no_grad():
        model.three.weight *= 3
        model.three.bias *= 3
    return model


def test_axes_of_a_sharp_classifier_are_in_nats_of_its_own_loss_as_their_sum_is() -> None:
    forecast = run(job("params=0.5", model=sharp(), config=QUICK)).forecast
    assert forecast is not None
    assert 1 / FACTOR < sum(forecast.by_axis.values()) / forecast.increase < FACTOR


def test_a_loss_of_the_user_s_that_is_the_default_gives_what_the_default_does() -> None:
    plain, given = (
        run(job("params=0.5", config=QUICK, task=Task(loss))) for loss in (None, F.cross_entropy)
    )
    assert given.forecast == plain.forecast
    assert given.posterior.meta == plain.posterior.meta
    assert not any("no likelihood" in note for note in given.warnings)


def test_half_precision_is_judged_as_single_is() -> None:
    x, y = clouds()
    half = sharp().bfloat16()
    # the same values, so that only the precision of what is computed differs
    single = copy.deepcopy(half).float()
    found = [
        run(job("params=0.5", model=model, train=(inputs, y), config=QUICK)).forecast
        for model, inputs in ((single, x.bfloat16().float()), (half, x.bfloat16()))
    ]
    assert all(one is not None for one in found)
    first, second = found
    for name, temperature in first.temperatures.items():
        assert second.temperatures[name] == pytest.approx(temperature, rel=0.3)
    assert second.increase == pytest.approx(first.increase, rel=0.5)


@dataclass
class Scored:
    logits: torch.Tensor
    loss: torch.Tensor | None


class Read(nn.Module):
    """A causal model: classes of the next token from the table's row of this one."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 9)

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
        hidden = self.table(input_ids)
        logits = self.head(hidden + self.down(torch.relu(self.up(hidden))))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return Scored(logits, loss)


def test_texts_without_a_label_that_counts_break_nothing() -> None:
    """The first two samples have none, nor has the one sample of the last batch that measures."""
    torch.manual_seed(0)
    ids = torch.randint(9, (272, 6))
    labels = ids.clone()
    labels[:2] = IGNORED
    labels[256:] = IGNORED
    found = probcomp.compress(
        Read(),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels},
        test={n: t[2:34] for n, t in zip(("input_ids", "attention_mask", "labels"),
                                         (ids, torch.ones_like(ids), labels))},
        budget="prunable=0.6",
        method="turbo-vbi-post",
        config=PostConfig(measured=17),
        progress=False,
    )  # fmt: skip
    assert found.report.prediction is not None
    assert 0 < found.report.prediction.increase < 1
    assert not any("no likelihood" in note for note in found.report.warnings)


def test_targets_that_are_one_real_number_are_a_known_likelihood() -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 24), nn.Linear(24, 1)

        def forward(self, x: Any, labels: Any = None) -> Any:
            logits = self.two(torch.relu(self.one(x)))
            loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels)
            return Scored(logits, loss)

    x, _ = clouds()
    given = {"x": x, "labels": x[:, 0]}
    found = probcomp.compress(
        Regression(), given, budget="prunable=0.6", method="turbo-vbi-post", progress=False
    )
    assert not any("no likelihood" in note for note in found.report.warnings)
