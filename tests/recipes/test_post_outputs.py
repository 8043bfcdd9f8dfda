"""One factor on the outputs of a pruned classifier."""

import copy

import pytest
import torch
from torch import Tensor, nn

from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.recipes.post_config import PostConfig
from probcomp.recipes.post_outputs import (
    ENOUGH,
    FEW_TEXTS,
    FEWEST,
    MANY_TOKENS,
    best_scale,
    head_of,
    scale_outputs,
)
from probcomp.recipes.post_training import run
from probcomp.recipes.task import Task
from tests.recipes.jobs import job
from tests.recipes.nets import clouds, trained

CLOSE = 1e-4  # golden section: a minimum of float64 is known to the root of its rounding


def pair(noise: float, units: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    dense = 3 * torch.randn(units, 5, generator=generator, dtype=torch.float64)
    return dense + noise * torch.randn(units, 5, generator=generator, dtype=torch.float64), dense


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_outputs_of_another_size_are_brought_back(factor: float) -> None:
    found, dense = pair(0.0)
    assert best_scale(found * factor, dense) == pytest.approx(1 / factor, rel=CLOSE)


def test_the_factor_is_the_best_of_a_grid() -> None:
    found, dense = pair(4.0)
    scale = best_scale(found, dense)
    grid = torch.linspace(0.1, 2.0, 381, dtype=torch.float64)
    targets = torch.zeros(len(found), dtype=torch.long)
    losses = [float(Categorical().divergence(s * found, dense, targets)) for s in grid]
    assert scale == pytest.approx(float(grid[losses.index(min(losses))]), abs=0.005)
    assert scale < 0.8  # wrong outputs should not be as sure


def test_the_last_layer_takes_the_factor_and_decisions_stay() -> None:
    dense, (x, y) = trained(), clouds()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.three.weight *= 4
        model.three.bias *= 4
    scale = scale_outputs(model, dense, Task(), Categorical(softness=4.0), [(x, y)])
    assert scale == pytest.approx(0.25, rel=CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x), rtol=1e-3, atol=1e-4)
    assert scale_outputs(model, dense, Task(), Gaussian(), [(x, x)]) is None
    assert scale_outputs(model, dense, Task(), None, [(x, y)]) is None
    few = FEWEST - 1
    for batches in ([], [(x[:few], y[:few])]):
        assert scale_outputs(model, dense, Task(), Categorical(), batches) is None
    assert scale_outputs(model, dense, Task(), Categorical(), [(x[: few + 1], y[: few + 1])])


def test_nothing_is_made_surer() -> None:
    dense, (x, y) = trained(), clouds()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.three.weight *= 0.3
    before = model.three.weight.clone()
    assert scale_outputs(model, dense, Task(), Categorical(), [(x, y)]) == 1.0
    assert torch.equal(model.three.weight, before)


def test_positions_that_do_not_count_have_no_say() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    torch.manual_seed(0)
    dense = Tokens()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.head.weight *= 2
        model.head.bias *= 2
        model.table.weight[8] = 50.0  # only where labels are ignored
    ids = torch.tensor([[1, 2, 3, 8], [4, 5, 6, 8]]).repeat(32, 1)
    labels = ids.masked_fill(ids == 8, IGNORED)
    likelihood = Categorical(unit="token")
    few = [(ids[1:], labels[1:])]  # one text short, with three times the tokens
    assert scale_outputs(copy.deepcopy(model), dense, Task(), likelihood, few) is None
    long = ids.repeat(1, MANY_TOKENS // 4), labels.repeat(1, MANY_TOKENS // 4)
    some = [tuple(t[: FEW_TEXTS - 1] for t in long)]  # nor are many tokens of too few texts enough
    assert scale_outputs(copy.deepcopy(model), dense, Task(), likelihood, some) is None
    some = [tuple(t[:FEW_TEXTS] for t in long)]
    assert scale_outputs(copy.deepcopy(model), dense, Task(), likelihood, some)
    scale = scale_outputs(model, dense, Task(), likelihood, [(ids, labels)])
    assert scale == pytest.approx(0.5, rel=CLOSE)


def test_a_number_needs_only_so_many_samples() -> None:
    dense, (x, y) = trained(), clouds()
    taken = []

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(10):
            taken.append(len(x))
            yield x, y

    scale_outputs(copy.deepcopy(dense), dense, Task(), Categorical(), batches())
    assert sum(taken[:-1]) < ENOUGH <= sum(taken)


class Ends(nn.Module):
    """Ends in a linear layer, or in something more."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(4, 4), nn.Linear(4, 4), kind
        if kind == "shared":
            self.first.weight = self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.kind == "twice":
            x = self.last(x)
        x = self.last(x)
        return 2 * x if self.kind == "more" else x


@pytest.mark.parametrize("kind", ["plain", "shared", "twice", "more"])
def test_only_a_last_layer_of_its_own_takes_a_factor(kind: str) -> None:
    model = Ends(kind)
    found = head_of(model, Task(), (torch.randn(3, 4), torch.zeros(3, dtype=torch.long)))
    assert found is (model.last if kind == "plain" else None)
    before = copy.deepcopy(model.state_dict())
    batch = (torch.randn(FEWEST, 4), torch.zeros(FEWEST, dtype=torch.long))
    scale = scale_outputs(model, Ends(kind), Task(), Categorical(), [batch])
    assert (scale is None) == (kind != "plain")
    if scale is None:
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_the_recipe_scales_and_says_so(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clouds()
    units: list[int] = []

    def found(outputs: Tensor, dense: Tensor) -> float:
        units.append(len(outputs))
        return factor

    monkeypatch.setattr("probcomp.recipes.post_outputs.best_scale", found)
    scaled, plain = (run(job("params=0.4", config=PostConfig(scaled=s))) for s in (True, False))
    assert units == [64]  # those that are kept back, and only with the setting
    assert scaled.posterior.meta["output_scale"] == factor
    assert "output_scale" not in plain.posterior.meta
    told = [note for note in scaled.warnings if "multiplied by" in note]
    assert len(told) == (factor != 1)
    with torch.no_grad():
        first, second = (m(x) for m in (scaled.model, plain.model))
    torch.testing.assert_close(first, factor * second, rtol=1e-4, atol=1e-5)
