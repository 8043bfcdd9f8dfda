"""Every kind of unit after training: one unit is made all but silent, and that one goes first."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.evidence.fisher import Categorical
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.post_training import PostConfig, run
from probcomp.recipes.task import Task
from probcomp.structure import shrink, trace
from tests.recipes.mixtures import language_model, tokens

WEAK = 2
"""The unit whose read-out columns are made small."""


class Routed(nn.Module):
    """Experts of two layers; each row of the input goes to one of two, a shared one sees all."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 2)
        self.up = nn.ModuleList(nn.Linear(6, 5) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(5, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def expert(self, number: int, x: Tensor) -> Tensor:
        return self.down[number](torch.relu(self.up[number](x)))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        found = self.expert(2, x)
        for number in range(2):
            found = found + gates[:, number : number + 1] * self.expert(number, x)
        return self.head(x + found)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids).logits


def transformer(kind: str) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    shared = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 4 if kind == "head" else 8,
        "max_position_embeddings": 16,
    }
    if kind == "head":
        return Logits(BertForMaskedLM(BertConfig(**shared)))
    config = LlamaConfig(**shared, num_key_value_heads=4, tie_word_embeddings=False)
    return Logits(LlamaForCausalLM(config))


def setting(kind: str) -> tuple[nn.Module, Tensor, str]:
    """A network, its inputs, and the weight that reads the units."""
    torch.manual_seed(0)
    if kind == "channel":
        return Convolved().eval(), torch.randn(64, 2, 6, 6), "two.weight"
    if kind == "neuron in an expert":
        return Routed().eval(), torch.randn(96, 6), "down.1.weight"
    reads = {
        "head": "attention.output.dense.weight",
        "kv_group": "self_attn.o_proj.weight",
        "neuron": "mlp.down_proj.weight",
    }
    model = transformer(kind).eval()
    name = next(n for n, _ in model.named_parameters() if n.endswith(reads[kind]))
    return model, torch.randint(20, (32, 8)), name


@pytest.mark.parametrize("kind", ["head", "kv_group", "neuron", "channel", "neuron in an expert"])
def test_the_weakest_unit_goes_first(kind: str) -> None:
    model, x, reads = setting(kind)
    structure = trace(model, (x[:2],))
    axes = removable(structure, ("head", "kv_group", "neuron", "channel"))
    axis, member = next(
        (a, m)
        for a in axes
        if a.kind == kind.split()[0]
        for m in a.members
        if m.parameter == reads and m.dim == 1
    )
    with torch.no_grad():
        weight = model.get_parameter(reads)
        weight[:, member.index[WEAK].flatten()] *= 1e-3
        outputs = model(x)
    size = sum(p.numel() for p in model.parameters())
    given: dict[str, Any] = {
        "model": model,
        "task": Task(),
        "train": (x, outputs.argmax(-1)),
        "structure": structure,
        "units": (axis,),
        "uses": weight_macs(model, lambda m: m(x[:2]), 2),
        "config": PostConfig(measured=16, batch_size=16),
    }
    found = run(Job(**given, budget=Budget(params=float(size - 1))))
    assert torch.nonzero(~found.keep[axis.name]).flatten().tolist() == [WEAK]
    small = shrink(found.model, structure, found.keep)
    with torch.no_grad():
        torch.testing.assert_close(small(x), found.model(x), rtol=1e-4, atol=1e-5)
        strength = float((outputs - outputs.mean()).std())
        assert float((small(x) - outputs).abs().max()) < 0.02 * strength


@pytest.mark.parametrize(
    "budget", [Budget(params=0.97), pytest.param(None, marks=pytest.mark.slow)]
)
def test_neurons_that_fused_experts_share_go_in_multiples_that_their_kernel_takes(
    budget: Budget | None,
) -> None:
    """Four that no expert reads to speak of go first; the others are refitted."""
    model = Logits(copy.deepcopy(language_model("mixtral"))).eval()
    x = tokens()["input_ids"]
    structure = trace(model, (x[:2],))
    axes = [a for a in removable(structure, ("neuron",)) if a.name.endswith("experts.neuron")]
    assert len(axes) == 2
    (reads,) = (m for m in axes[0].members if m.dim == 2)
    weak = torch.tensor([1, 4, 5, 11])
    with torch.no_grad():
        model.get_parameter(reads.parameter)[:, :, weak] *= 1e-3
        outputs = model(x)
    given: dict[str, Any] = {
        "model": model,
        "task": Task(),
        "train": (x, outputs.argmax(-1)),
        "structure": structure,
        "units": tuple(axes),
        "uses": weight_macs(model, lambda m: m(x[:2]), 2),
        "config": PostConfig(measured=8, batch_size=8),
    }
    found = run(Job(**given, budget=budget))
    keep = found.keep[axes[0].name]
    assert all(int(k.sum()) % 4 == 0 for k in found.keep.values())
    assert not keep[weak].any()
    if budget is not None:
        assert int(keep.sum()) == 12
        assert bool(found.keep[axes[1].name].all())
        with torch.no_grad():
            close = float((found.model(x) - outputs).abs().max())
        assert close < 0.02 * float(outputs.std())
    small = shrink(found.model, structure, found.keep)
    with torch.no_grad():
        torch.testing.assert_close(small(x), found.model(x), rtol=1e-4, atol=1e-4)


def test_a_refit_of_fused_experts_loses_less_than_none() -> None:
    model, data = language_model("mixtral"), tokens(64)
    ids = data["input_ids"]
    structure = trace(model, {"input_ids": ids[:2]})
    given = Job(
        model=model,
        task=Task(),
        train=data,
        structure=structure,
        units=removable(structure, ("neuron",)),
        budget=Budget(params=0.75 * sum(p.numel() for p in model.parameters())),
        uses={},
    )

    def left(refit: str) -> float:
        found = run(replace(given, config=PostConfig(measured=8, refit=refit)))
        assert not all(bool(k.all()) for k in found.keep.values())
        with torch.no_grad():
            small, dense = (m(ids).logits.flatten(0, 1) for m in (found.model, model))
        return float(Categorical().divergence(small, dense, ids.flatten()))

    assert left("sequential") < 0.9 * left("none")
