import dataclasses

import pytest
import torch
from torch import nn

from probcomp.allocation.counts import weight_macs
from probcomp.errors import BudgetError
from probcomp.recipes.compress import removable
from probcomp.recipes.pricing import limit_of
from probcomp.structure import trace
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

NAMES = ("one.weight", "two.weight", "three.weight")
TOTAL = 6 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3


def everything() -> dict[str, torch.Tensor]:
    parameters = dict(trained().named_parameters())
    return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in NAMES}


def test_parameters_are_counted_with_what_goes_with_a_unit() -> None:
    given = job("params=0.3")
    limit = limit_of(given)
    assert limit.allowed == pytest.approx(0.3 * TOTAL)
    assert limit.spent(everything(), {}) == TOTAL
    axis = next(a for a in given.units if a.size == 12)
    keep = {axis.name: torch.arange(12) != 4}
    assert limit.spent(everything() | {}, keep) == TOTAL - 1  # masks of weights are given apart
    masks = everything()
    masks["two.weight"][4] = False
    masks["three.weight"][:, 4] = False
    assert limit.spent(masks, keep) == TOTAL - 1 - 24 - 3


def test_multiplications_do_not_count_biases() -> None:
    limit = limit_of(job("macs=0.5"))
    assert limit.spent(everything(), {}) == TOTAL - 39
    assert limit.allowed == pytest.approx(0.5 * (TOTAL - 39))


def test_no_budget_and_one_out_of_reach() -> None:
    assert limit_of(job(None)) is None
    # Biases of the classes, and of the last unit of each hidden layer.
    with pytest.raises(BudgetError, match="never pruned cost 5"):
        limit_of(job("params=2"))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.out = nn.GRU(6, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.memory(x[:, None])[0][:, -1])


def test_a_layer_that_is_never_called_is_never_pruned() -> None:
    given = job("params=0.1")
    # The row of the last unit that it makes, all units that this reads, and biases.
    with pytest.raises(BudgetError, match=f"never pruned cost {24 + 24 + 1 + 3}"):
        limit_of(dataclasses.replace(given, uses={n: 1.0 for n in given.uses if "two" not in n}))


def test_units_that_a_weight_without_a_mask_reads_are_paid_for_before_training() -> None:
    """The units of a recurrent layer read each other, and no baseline prunes its weights."""
    model, (x, _) = Recurrent(), clouds()
    structure = trace(model, (x[:2],))
    changes = {
        "model": model,
        "structure": structure,
        "units": removable(structure, ("neuron",)),
        "uses": weight_macs(model, lambda m: m(x[:2]), 2),
    }
    with pytest.raises(BudgetError, match="never pruned cost 543"):
        limit_of(job("params=0.5", **changes))
