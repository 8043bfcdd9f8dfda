import pytest
import torch

from probcomp.allocation import Budget
from probcomp.allocation.counts import macs_of, weight_macs
from probcomp.errors import BudgetError, InputError
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending, fractions, remove_lowest
from probcomp.structure import shrink, trace
from tests.allocation.test_counts import call, network
from tests.recipes.jobs import job
from tests.recipes.mixtures import language_model, tokens
from tests.recipes.nets import trained


def keys_of(given) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {axis.name: torch.rand(axis.size, generator=generator) for axis in given.units}


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_the_cost_is_that_of_the_smaller_model(unit: str):
    given = job(f"{unit}=0.5")
    spending = Spending.of(given)
    first, second = given.units
    for left in ((3, 2), (first.size, 5)):
        counts = dict(zip((first.name, second.name), left))
        keep = {n: torch.arange(given.structure.axis(n).size) < c for n, c in counts.items()}
        small = shrink(trained(), given.structure, keep)
        values = dict(small.named_parameters())
        of = values if unit == "params" else {n: p for n, p in values.items() if p.dim() == 2}
        assert spending.cost(counts) == sum(p.numel() for p in of.values())
    assert spending.dense == spending.cost({})
    assert spending.unit_cost(first) == spending.dense - spending.cost({first.name: first.size - 1})


def test_everything_prunable_is_what_goes_with_a_unit():
    # the last bias stays when no neuron does
    spending = Spending.of(job("params=0.5"))
    assert spending.dense - spending.prunable == 3


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_lowest_go_and_the_budget_is_met(share: float):
    given = job(f"params={share}")
    spending, keys = Spending.of(given), keys_of(given)
    keep = remove_lowest(spending, keys)
    counts = {name: int(mask.sum()) for name, mask in keep.items()}
    assert spending.cost(counts) <= spending.allowed
    for axis in given.units:
        kept = keep[axis.name]
        if not kept.all():
            assert keys[axis.name][kept].min() > keys[axis.name][~kept].max()
            more = counts | {axis.name: counts[axis.name] + 1}
            assert spending.cost(more) > spending.allowed  # not one unit more would fit


def test_a_minimum_stays_and_what_cannot_be_reached_is_said():
    given = job("params=0.05")
    spending = Spending.of(given)
    keep = remove_lowest(spending, keys_of(given))
    assert all(int(keep[a.name].sum()) >= a.min_keep for a in given.units)
    with pytest.raises(BudgetError, match="not removable"):
        remove_lowest(Spending.of(job("params=4")), keys_of(given))
    with pytest.raises(BudgetError, match="params or macs"):
        Spending.of(job("bits=0.5"))


def test_bad_keys():
    given = job("params=0.5")
    spending, keys = Spending.of(given), keys_of(given)
    name = given.units[0].name
    with pytest.raises(InputError, match="needs 24 keys"):
        remove_lowest(spending, {n: k for n, k in keys.items() if n != name})
    with pytest.raises(InputError, match="NaN"):
        remove_lowest(spending, keys | {name: torch.full((24,), torch.nan)})


def test_fractions_are_ranks():
    assert fractions(torch.tensor([3.0, 1.0, 2.0, 2.0])).tolist() == [0.875, 0.125, 0.375, 0.625]


def test_an_expert_saves_parameters_and_no_multiplications() -> None:
    """Rows that would go to it go to others."""
    model, data = language_model("mixtral"), tokens()
    structure = trace(model, {"input_ids": data["input_ids"][:2]})
    axes = removable(structure, ("expert", "neuron"))
    uses = weight_macs(model, lambda m: m(data["input_ids"][:2]), 2)

    def saved(unit: str, kind: str) -> float:
        given = Job(
            model=model, task=Task(), train=data, structure=structure, units=axes,
            budget=Budget.parse(f"{unit}=0.9"), uses=uses,
        )  # fmt: skip
        return Spending.of(given).unit_cost(next(a for a in axes if a.kind == kind))

    hidden, neurons = 16, 16
    assert saved("params", "expert") == 3 * hidden * neurons + hidden
    assert saved("macs", "expert") == 0
    assert saved("params", "neuron") == 4 * 3 * hidden
    assert saved("macs", "neuron") == 8 * 2 * 3 * hidden  # eight positions, two experts each


@pytest.mark.parametrize(
    "family", ["cnn", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "llama"))]
)
def test_multiplications_that_a_unit_saves_are_those_that_the_smaller_model_lacks(
    family: str,
) -> None:
    """By the budget, which counts products with weights, and by the axis, which counts all."""
    model, inputs = network(family)
    structure = trace(model, inputs)
    dense = macs_of(model, lambda m: call(m, inputs), 2)
    axes = removable(structure, ("neuron", "channel", "head", "kv_group"))
    data = inputs if isinstance(inputs, dict) else (*inputs, torch.zeros(2, dtype=torch.long))
    given = Job(
        model=model, task=Task(), train=data, structure=structure, units=axes,
        budget=Budget(macs=0.9), uses=dense.uses,
    )  # fmt: skip
    spending = Spending.of(given)
    assert spending.dense == pytest.approx(dense.of(model))
    for kind in {axis.kind for axis in axes}:
        axis = next(a for a in axes if a.kind == kind)
        keep = {axis.name: torch.arange(axis.size) > 0}
        small = shrink(model, structure, keep)
        left = macs_of(small, lambda m: call(m, inputs), 2)
        saved = dense.of(model) - left.of(small)
        assert spending.unit_cost(axis) == pytest.approx(saved), axis.name
        assert axis.cost.macs == pytest.approx(2 * (saved + dense.others - left.others)), axis.name
