"""From scores to masks and units: unread units, budgets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.errors import BudgetError
from probcomp.inference.baselines.readout import cut, settle
from probcomp.inference.training import Slice, Units
from tests.inference.baselines.networks import limit, network, units


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)]
    return nn.Sequential(*layers)


def groups() -> list[Units]:
    def one(name: str, size: int, made: int, read: int) -> Units:
        index = torch.arange(size)[:, None]
        members = (
            Slice(f"{made}.weight", 0, index),
            Slice(f"{made}.bias", 0, index),
            Slice(f"{read}.weight", 1, index),
        )
        return Units(name, size, members)

    return [one("first", 6, 0, 2), one("second", 5, 2, 4)]


def ones(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: torch.ones_like(p, dtype=torch.bool)
            for n, p in model.named_parameters() if p.dim() > 1}  # fmt: skip


def test_units_that_nobody_reads_go_and_take_others_with_them() -> None:
    model, masks = deep(), ones(deep())
    masks["4.weight"][:, 3] = False  # unit 3 of the second layer is unread
    masks["2.weight"][:, 1] = False  # unit 1 of the first is read by nobody
    masks["2.weight"][:, 2] = False
    masks["2.weight"][3, 2] = True  # unit 2 is read by unit 3 only
    settled, keep = settle(model, masks, groups())
    assert keep["second"].tolist() == [True, True, True, False, True]
    assert keep["first"].tolist() == [True, False, False, True, True, True]
    assert not settled["2.weight"][3].any()
    assert not settled["0.weight"][[1, 2]].any()


@given(st.integers(0, 2**31 - 1), st.floats(0.05, 0.9))
def test_settling_never_changes_the_function(seed: int, density: float) -> None:
    model = deep().double()
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(m.shape, generator=generator) < density for n, m in ones(model).items()}
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)

    def output(given: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = dict(model.named_parameters())
        return torch.func.functional_call(
            model, {n: p * given[n] if n in given else p for n, p in weights.items()}, (x,)
        )

    settled, keep = settle(model, masks, groups())
    torch.testing.assert_close(output(settled), output(masks), rtol=0, atol=1e-12)
    again, same = settle(model, settled, groups())
    # Where a group is down to what it must keep, another call may keep another unread unit.
    if all(int(k.sum()) > 1 for k in keep.values()):
        assert all(torch.equal(again[n], settled[n]) for n in settled)
        assert all(torch.equal(same[n], keep[n]) for n in keep)


def test_a_reader_without_a_mask_keeps_its_units() -> None:
    model = deep()
    masks = {"0.weight": torch.ones(6, 4, dtype=torch.bool)}
    _, keep = settle(model, masks, groups())
    assert all(bool(k.all()) for k in keep.values())


@pytest.mark.parametrize("allowed", [20, 60, 95, 1000])
def test_a_budget_is_spent_as_far_as_it_goes(allowed: float) -> None:
    model = network()
    bound = limit(model, allowed)
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() > 1}
    zero = dict.fromkeys(scores, 0.0)
    masks, keep, shift = cut(scores, zero, lambda alive: settle(model, alive, units()), bound)
    spent = bound.spent(masks, keep)
    assert spent <= allowed
    if allowed < 99:  # one more weight would not fit, or brings a unit's bias with it
        assert spent >= allowed - 4
        assert shift > 0
    kept = torch.cat([scores[n][masks[n]] for n in scores])
    assert float(kept.min()) > shift


def test_a_budget_that_everything_fits_keeps_it_by_a_number() -> None:
    """The shift is written as JSON, which knows no infinities."""
    model = network()
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() > 1}
    zero = dict.fromkeys(scores, 0.0)
    masks, _, shift = cut(
        scores, zero, lambda alive: settle(model, alive, units()), limit(model, 1e6)
    )
    assert all(bool(mask.all()) for mask in masks.values())
    assert math.isfinite(shift)


def test_without_a_budget_the_threshold_decides() -> None:
    scores = {"a": torch.tensor([0.1, 0.5, 2.0]), "b": torch.tensor([-1.0, -3.0])}
    masks, _, shift = cut(scores, {"a": 0.3, "b": 0.0}, lambda alive: (dict(alive), {}), None)
    assert masks["a"].tolist() == [False, True, True]
    assert masks["b"].tolist() == [True, False]  # the best one stays, so no layer is cut off
    assert shift == 0


def test_a_budget_out_of_reach() -> None:
    model = network()
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() > 1}
    decide = lambda alive: settle(model, alive, units())  # noqa: E731
    with pytest.raises(BudgetError, match="the least that leaves every layer connected"):
        cut(scores, dict.fromkeys(scores, 0.0), decide, limit(model, 2))


class Looking(nn.Module):
    """A table and a transposed convolution whose units lie along dimensions 1 and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.first = nn.Linear(4, 3)
        self.wide = nn.ConvTranspose1d(3, 2, 2)
        self.out = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(self.table(x)).relu()
        return self.out(hidden) + self.wide(hidden[..., None]).sum(-1)


def test_what_a_weight_reads_is_told_by_its_module() -> None:
    def one(name: str, size: int, *members: tuple[str, int]) -> Units:
        index = torch.arange(size)[:, None]
        return Units(name, size, tuple(Slice(n, dim, index) for n, dim in members))

    model = Looking()
    groups = [
        one("columns", 4, ("table.weight", 1), ("first.weight", 1)),
        one("hidden", 3, ("first.weight", 0), ("first.bias", 0), ("out.weight", 1),
            ("wide.weight", 0)),
    ]  # fmt: skip
    masks = {n: torch.ones(model.get_parameter(n).shape, dtype=torch.bool)
             for n in ("first.weight", "out.weight")}  # fmt: skip
    masks["first.weight"][:, 1] = False
    masks["out.weight"][:, 2] = False
    _, keep = settle(model, masks, groups)
    assert keep["columns"].tolist() == [True, False, True, True]  # the table only makes them
    assert keep["hidden"].tolist() == [True] * 3  # the transposed convolution reads the last one
    with torch.no_grad():
        model.wide.weight[2] = 0
    _, keep = settle(model, masks, groups)
    assert keep["hidden"].tolist() == [True, True, False]
