"""Read-outs of fused experts against sums by hand, in each way that experts are run."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.evidence.fused import collect_fused, fused_readouts, parts, weight_of
from probcomp.structure import trace
from tests.recipes.mixtures import Mixture, language_model, tokens

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


class Sliced(nn.Module):
    """Every expert on every row, one slice of the tensors after the other."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router = nn.Linear(6, 3)
        self.up = nn.Parameter(torch.randn(3, 8, 6))
        self.down = nn.Parameter(torch.randn(3, 8, 5) if transposed else torch.randn(3, 5, 8))
        self.transposed = transposed

    def hidden(self, x: Tensor, expert: int) -> Tensor:
        return torch.tanh(F.linear(x, self.up[expert]))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        total = torch.zeros(len(x), 5)
        for expert in range(3):
            hidden, weight = self.hidden(x, expert), self.down[expert]
            given = hidden @ weight if self.transposed else F.linear(hidden, weight)
            total = total + gates[:, expert, None] * given
        return total


def run(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).logits if isinstance(batch, dict) else model(batch[0])


def axes_of(model: nn.Module, example: Any) -> list[Any]:
    return [a for a in trace(model, example).axes if a.kind == "neuron" and not a.blocked]


def mixtral(implementation: str) -> Any:
    model = copy.deepcopy(language_model("mixtral"))
    model.set_experts_implementation(implementation)
    return model


def test_names_of_slices() -> None:
    assert parts("a.down[12]") == ("a.down", 12)
    assert parts("a.0.weight") == ("a.0.weight", None)
    tensors = {"a.down": torch.zeros(3, 2, 2)}
    weight_of(tensors, "a.down[1]").fill_(1)
    assert tensors["a.down"].sum((1, 2)).tolist() == [0, 4, 0]


@pytest.mark.parametrize("transposed", [False, True])
def test_sums_and_gradients_are_those_of_each_expert(transposed: bool) -> None:
    model = Sliced(transposed).eval()
    (one,), reasons = fused_readouts(model, axes_of(model, (X[:2],)), (X[:2],), run)
    assert not reasons
    assert one.multiple == 1
    noise = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    batches = [(X[:40], noise[:40]), (X[40:], noise[40:])]
    found = collect_fused(
        model, one.reads, batches, run, probe=lambda out, batch: [(out * batch[1]).sum()]
    )
    with torch.no_grad():
        gates = model.router(X).softmax(-1)
        for expert, read in enumerate(one.reads):
            seen = found[read.parameter]
            h = model.hidden(X, expert).double()
            g = (gates[:, expert, None] * noise).double()
            assert seen.count == 64
            torch.testing.assert_close(seen.gram, h.T @ h, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(seen.sum, h.sum(0), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(seen.metric, g.T @ g / 64, rtol=1e-5, atol=1e-5)
            matrix = read.matrix.of(weight_of(dict(model.named_parameters()), read.parameter))
            assert matrix.shape == (5, 8)


def test_grouped_and_sliced_products_show_the_same() -> None:
    data = tokens()
    found = {}
    for how in ("grouped_mm", "eager"):
        model = mixtral(how)
        axes = axes_of(mixtral("grouped_mm"), {"input_ids": data["input_ids"][:2]})
        fused, reasons = fused_readouts(model, axes, data, run)
        assert not {n for n in reasons if "experts" in n}
        assert {f.multiple for f in fused} == {4 if how == "grouped_mm" else 1}
        reads = [read for one in fused for read in one.reads]
        found[how] = collect_fused(
            model, reads, [data], run, probe=lambda out, batch: [out.square().sum()]
        )
    sizes = [s.count for s in found["eager"].values()]
    assert sum(sizes) == 2 * 2 * data["input_ids"].numel()  # two layers, two experts a token
    for name, sliced in found["eager"].items():
        grouped = found["grouped_mm"][name]
        assert grouped.count == sliced.count
        torch.testing.assert_close(grouped.gram, sliced.gram, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(grouped.metric, sliced.metric, rtol=1e-3, atol=1e-4)


def test_an_expert_without_tokens_has_no_inputs_and_the_gradients_of_its_layer() -> None:
    data = tokens(2, 3)  # six tokens
    model = mixtral("grouped_mm")
    axes = axes_of(model, {"input_ids": data["input_ids"]})
    fused, _ = fused_readouts(model, axes, data, run)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight[3] = 0
            layer.mlp.gate.weight[:3] = 5 * layer.mlp.gate.weight[:3].abs()
            layer.post_attention_layernorm.weight.abs_()
        model.model.layers[0].mlp.gate.weight[3] = -model.model.layers[0].mlp.gate.weight[0]
    reads = fused[0].reads
    found = collect_fused(model, reads, [data], run, probe=lambda out, batch: [out.sum()])
    counts = [found[r.parameter].count for r in reads]
    if 0 not in counts:
        pytest.fail(f"all experts are used: {counts}")
    empty = found[reads[counts.index(0)].parameter]
    assert not empty.gram.any()
    probed = [found[r.parameter] for r, c in zip(reads, counts) if c]
    mean = sum(s.fisher for s in probed) / sum(counts)
    torch.testing.assert_close(empty.metric, mean)


def test_other_products_are_named() -> None:
    model = Mixture().eval()
    axes = axes_of(model, (X[:2],))
    fused, reasons = fused_readouts(model, axes, (X[:2],), run)
    assert not fused
    assert any("einsum" in reason for reason in reasons.values())
    assert any("no single tensor" in reason for reason in reasons.values())
