"""Kinds, reasons, exactness and names of axes; the helpers that read and round a selection."""

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import KINDS, cut_graph, round_keep, trace

from . import nets
from .cutting import check_axes, distance, free, run
from .zoo_holdout import ZOO


def traced(name: str, **options: bool):
    entry = ZOO[name]
    model = entry.build()
    inputs = entry.inputs(*entry.first)
    return model, trace(model, inputs, **options), inputs


class Sigmoid(nn.Module):
    """The hidden units are squashed to one half when their weights are zero."""

    def __init__(self, total: bool) -> None:
        super().__init__()
        self.total = total
        self.up = nn.Linear(5, 6)
        self.down = nn.Linear(1 if total else 6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.up(x))
        return self.down(y.sum(-1, keepdim=True) if self.total else y)


def test_members_are_the_slices_of_each_unit() -> None:
    _, structure, _ = traced("llama")
    axis = structure.axis("model.layers.0.self_attn.q_proj.kv_group")
    assert (axis.kind, axis.size) == ("kv_group", 3)
    found = {(m.parameter.rsplit(".", 2)[-2], m.dim): m.index for m in axis.members}
    assert set(found) == {("q_proj", 0), ("k_proj", 0), ("v_proj", 0), ("o_proj", 1)}
    # Two query heads of eight positions each, contiguous, per key-value head.
    assert found["q_proj", 0][1].tolist() == list(range(16, 32))
    assert found["k_proj", 0][2].tolist() == list(range(16, 24))
    assert found["o_proj", 1].dtype == torch.int64


def test_names_are_unique_and_follow_the_first_producer() -> None:
    _, structure, _ = traced("llama")
    names = [a.name for a in structure.axes]
    assert len(set(names)) == len(names)
    assert "model.layers.1.mlp.gate_proj.neuron" in names
    assert all(a.kind in KINDS for a in structure.axes)
    again = traced("llama")[1]
    assert names == [a.name for a in again.axes]


def test_renaming_modules_changes_names_only() -> None:
    torch.manual_seed(0)
    model = nets.SharedTwice().double()
    x = torch.randn(2, 7).double()

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zz = model.out
            self.first, self.last = model.inner, model.enter

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.last(x))
            return self.zz(self.first(torch.tanh(self.first(x))))

    def shape(structure):
        return sorted((a.kind, a.size, len(a.members), a.cost.params) for a in structure.axes)

    assert shape(trace(model, (x,))) == shape(trace(Other(), (x,)))


def test_reasons_name_operator_and_module() -> None:
    _, structure, _ = traced("llama")
    residual = next(a for a in structure.axes if a.kind == "residual")
    assert "mean over it" in residual.inexact_because
    assert "model.layers.0.input_layernorm" in residual.inexact_because
    blocked = {a.name: a.blocked for a in structure.axes if a.blocked}
    assert "embedding at model.embed_tokens" in blocked["model.embed_tokens.neuron"]
    assert "output" in blocked["lm_head.neuron"]


def test_a_sum_over_values_that_do_not_vanish_is_inexact() -> None:
    x = torch.randn(4, 5).double()
    guarded = trace(Sigmoid(total=False), (x,)).axis("up.neuron")
    assert guarded.exact
    model = Sigmoid(total=True)
    structure = trace(model, (x,))
    axis = structure.axis("up.neuron")
    assert not axis.exact
    assert "sum at the top module" in axis.inexact_because
    keep = {axis.name: torch.arange(6) > 1}
    difference = distance(
        run(cut_graph(structure, model, keep), (x,)), run(structure.silence(model, keep), (x,))
    )
    assert difference > 1e-3  # the reason is true


def test_head_choice() -> None:
    model, structure, inputs = traced("llama", group_heads=False)
    sizes = sorted((a.kind, a.size) for a in free(structure) if "head" in a.kind)
    assert ("head", 6) in sizes
    assert not any(a.kind in ("kv_group", "query_in_group") for a in free(structure))
    keep = {"model.layers.0.self_attn.q_proj.head": torch.tensor([0, 1, 1, 0, 1, 1]).bool()}
    cut, silent = cut_graph(structure, model, keep), structure.silence(model, keep)
    assert distance(run(cut, inputs), run(silent, inputs)) < 1e-6  # norms compute in float32


def test_experts_need_as_many_as_are_chosen() -> None:
    model, structure, inputs = traced("qwen3_moe")
    axis = next(a for a in structure.axes if a.kind == "expert")
    assert axis.min_keep == 2
    assert not axis.exact
    with pytest.raises(SurgeryError, match="min_keep is 2"):
        cut_graph(structure, model, {axis.name: torch.arange(5) < 1})
    keep = {axis.name: torch.arange(5) % 2 == 0}
    silent = structure.silence(model, keep)
    assert type(silent).__name__ == type(model).__name__
    # The grouped kernel works in float32.
    assert distance(run(cut_graph(structure, model, keep), inputs), run(silent, inputs)) < 2e-5


def test_radix_conflict_is_blocked_with_its_place() -> None:
    model = nn.Sequential(nn.Conv1d(3, 12, 1), nn.Conv1d(12, 12, 1, groups=3), nn.GroupNorm(4, 12))
    model.append(nn.Conv1d(12, 2, 1))
    structure = trace(model, (torch.randn(2, 3, 5),))
    reasons = [a.blocked for a in structure.axes if a.size in (3, 4) and a.blocked]
    assert any("radix 3 does not fit radix 4" in r and "group_norm at 2" in r for r in reasons)


class Defaults(nn.Module):
    """Attention that leaves its scale to the library: it must keep the dense value."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 36)
        self.out = nn.Linear(12, 6)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (3, 4)).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Python(nn.Module):
    """Sizes by Python arithmetic and literals."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 12), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        half = y.shape[-1] // 2
        return self.down(y[..., :half] * y[..., half:].view(-1, 2, 3).reshape(-1, 6))


@pytest.mark.parametrize("toy", [Defaults, Python, nets.TiedAutoencoder, nets.SharedTwice])
def test_adversarial_toys(toy: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = toy().double()
    width = {Defaults: 6, Python: 5, nets.TiedAutoencoder: 9}.get(toy, 7)
    shape = (2, 5, width) if toy is Defaults else (2, width)
    x = torch.randn(shape).double()
    structure = trace(model, (x,))
    assert free(structure)
    check_axes(structure, model, (x,))


def test_explain_names_axes_and_reasons() -> None:
    _, structure, _ = traced("llama")
    text = structure.explain("model.layers.0.self_attn.q_proj.weight", 0)
    assert "(3 * 2 * [4 + 4])" in text
    assert "model.layers.0.self_attn.q_proj.kv_group (kv_group)" in text
    assert "stays" in structure.explain("lm_head.weight", 0)
    with pytest.raises(InputError, match="Did you mean"):
        structure.explain("model.layers.0.self_attn.q_proj.wieght", 0)
    with pytest.raises(InputError, match="has 2 dimensions"):
        structure.explain("lm_head.weight", 2)


def test_bad_selections_are_refused() -> None:
    model, structure, _ = traced("mlp")
    axis = free(structure)[0]
    with pytest.raises(InputError, match="unknown axis"):
        structure.cost({"no.such.axis": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(InputError, match=rf"expected bool \[{axis.size}\]"):
        structure.cost({axis.name: torch.ones(axis.size)})
    with pytest.raises(InputError, match="expected bool"):
        structure.cost({axis.name: torch.ones(axis.size + 1, dtype=torch.bool)})
    with pytest.raises(SurgeryError, match="min_keep is 1"):
        cut_graph(structure, model, {axis.name: torch.zeros(axis.size, dtype=torch.bool)})
    blocked = next(a for a in structure.axes if a.blocked)
    with pytest.raises(SurgeryError, match="cannot be cut"):
        cut_graph(structure, model, {blocked.name: torch.arange(blocked.size) > 0})


def test_round_keep_revives_the_best() -> None:
    _, structure, _ = traced("mlp")
    axis = max(free(structure), key=lambda a: a.size)
    keep = torch.zeros(axis.size, dtype=torch.bool)
    keep[:5] = True
    scores = torch.arange(axis.size).float()
    rounded = round_keep(structure, {axis.name: keep}, 4, {axis.name: scores})[axis.name]
    assert int(rounded.sum()) == 8
    assert bool((rounded & keep).eq(keep).all())
    assert bool(rounded[-3:].all())
    assert torch.equal(round_keep(structure, {axis.name: keep}, 5)[axis.name], keep)
    assert int(keep.sum()) == 5  # the argument is not changed
    with pytest.raises(InputError, match="multiple"):
        round_keep(structure, {axis.name: keep}, 0)
