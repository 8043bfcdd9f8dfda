"""Units that nothing reads."""

import pytest
import torch
from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.magnitude import run as magnitude
from probcomp.recipes.needed import all_needed, needed
from probcomp.recipes.post_weights import WeightsConfig
from probcomp.recipes.post_weights import run as post_weights
from probcomp.recipes.task import Task
from probcomp.structure import Axis, Structure, shrink, silence, trace
from tests.recipes.jobs import job
from tests.recipes.nets import clouds


def axis_of_two() -> Axis:
    return next(a for a in job("params=0.3").units if a.size == 12)


def test_units_nobody_reads_go() -> None:
    axis, model = axis_of_two(), job("params=0.3").model
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[:, [2, 5]] = False
    # The rows of two.weight make the units; they do not read them.
    made = {"two.weight": torch.zeros(12, 24, dtype=torch.bool)}
    keep = needed(axis, {"three.weight": mask, **made}, model)
    assert keep.tolist() == [i not in (2, 5) for i in range(12)]
    nothing = needed(axis, {"three.weight": torch.zeros(3, 12, dtype=torch.bool)}, model)
    assert int(nothing.sum()) == axis.min_keep
    assert bool(needed(axis, {}, model).all())


class Two(nn.Module):
    """Units that two layers read, the second at most once more under another name.

    With ``plain`` their sum is an output too, which no weight reads.
    """

    def __init__(
        self, inputs: int, units: int, *, shared: bool = False, plain: bool = False
    ) -> None:
        super().__init__()
        self.a = nn.Linear(inputs, units)
        self.b, self.c, self.d = (nn.Linear(units, 3) for _ in range(3))
        self.shared, self.plain = shared, plain
        if shared:
            self.d.weight = self.c.weight
        else:
            del self.d

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        out = self.b(h) + 0.3 * self.c(h)
        if self.plain:
            return out + 0.01 * h.sum(-1, keepdim=True) * torch.tensor([1.0, 0.0, 0.0])
        return out - 0.1 * self.d(h) if self.shared else out


def traced(model: nn.Module, x: Tensor) -> tuple[Structure, Axis]:
    structure = trace(model, (x,))
    return structure, removable(structure, ("neuron",))[0]


@pytest.mark.parametrize("shared", [False, True])
def test_units_that_a_weight_without_a_mask_reads_stay(shared: bool) -> None:
    torch.manual_seed(0)
    model, x = Two(4, 6, shared=shared), torch.randn(5, 4)
    structure, axis = traced(model, x)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, [2, 4]] = False
    with torch.no_grad():
        model.b.weight[:, [2, 4]] = 0
        model.c.weight[:, 4] = 0  # reads nothing there, mask or none
    keep = needed(axis, {"b.weight": mask}, model)
    assert keep.tolist() == [i != 4 for i in range(6)]
    with torch.no_grad():
        torch.testing.assert_close(silence(structure, model, {axis.name: keep})(x), model(x))


@pytest.mark.parametrize("method", ["magnitude", "turbo-vbi-post-weights"])
@pytest.mark.parametrize("reader", ["masked", "shared", "plain"])
def test_a_shrunk_model_equals_the_masked_one(method: str, reader: str) -> None:
    shared = reader == "shared"
    data = clouds()
    torch.manual_seed(0)
    model = Two(data[0].shape[1], 40, shared=shared, plain=reader == "plain")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    structure, axis = traced(model.eval(), data[0][:2])
    if method == "magnitude":
        run, config, budget = magnitude, None, "params=0.3"
    else:
        run, budget = post_weights, "params=0.65" if shared else "params=0.3"
        config = WeightsConfig(measured=16, iterations=5)
    found = run(
        Job(
            model=model,
            task=Task(),
            train=data,
            structure=structure,
            units=(axis,),
            budget=Budget.parse(budget),
            uses=weight_macs(model, lambda m: m(data[0][:2]), 2),
            config=config,
        )
    )
    if method != "magnitude" and shared:  # else nothing would have gone before
        assert "c.weight" not in found.masks
        assert not found.masks["b.weight"].any(0).all()
    told = [note for note in found.warnings if "other than a weight" in note]
    assert len(told) == (reader == "plain")
    with torch.no_grad():
        small = shrink(found.model, structure, found.keep)
        torch.testing.assert_close(small(data[0]), found.model(data[0]), rtol=1e-4, atol=1e-5)


def test_a_reader_that_few_samples_show_is_found_in_sorted_data() -> None:
    """Units 0 and 1 are on for the last of three classes alone, and no weight reads them."""
    model = Two(3, 6, plain=True)
    y = torch.arange(3).repeat_interleave(60)
    x = torch.eye(3)[y]
    with torch.no_grad():
        model.a.weight[:2] = torch.tensor([0.0, 0.0, 1.0])
        model.a.bias[:2] = 0.0
        model.b.weight[:, :2] = model.c.weight[:, :2] = 0.0
    structure, axis = traced(model, x[:2])
    given = Job(
        model=model,
        task=Task(),
        train=(x, y),
        structure=structure,
        units=(axis,),
        budget=None,
        uses={},
    )
    read = model.b.weight != 0
    assert needed(axis, {"b.weight": read}, model).tolist() == [False] * 2 + [True] * 4
    keep, notes = all_needed(given, model, {"b.weight": read})
    assert bool(keep[axis.name].all())
    assert len(notes) == 1


class Conv1D(nn.Module):
    """As that of transformers: weights ``[in, out]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_the_dimension_of_inputs_is_that_of_the_module() -> None:
    model = nn.Sequential(Conv1D(4, 6), nn.ReLU(), Conv1D(6, 3))
    _, axis = traced(model, torch.randn(2, 4))
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[3] = False
    made = torch.ones(4, 6, dtype=torch.bool)
    made[:, 1] = False
    keep = needed(axis, {"0.weight": made, "2.weight": mask}, model)
    assert keep.tolist() == [i != 3 for i in range(6)]


def test_a_shared_weight_may_both_make_units_and_read_them() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x))

    model = Tied()
    structure = trace(model, (torch.tensor([[1, 2]]),))
    axis = next(a for a in structure.axes if a.size == 5)
    assert bool(needed(axis, {}, model).all())
    mask = torch.ones(7, 5, dtype=torch.bool)
    mask[:, 2] = False
    assert needed(axis, {"table.weight": mask}, model).tolist() == [i != 2 for i in range(5)]
