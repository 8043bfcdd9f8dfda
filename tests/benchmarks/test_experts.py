"""What routers say of experts, in the benchmark of whole experts."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def baselines(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("_experts_baselines")


def test_usage_and_gated_norms_are_those_of_each_token_by_itself(baselines) -> None:
    """Against a loop over tokens with the experts written out, of the published score."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    config = MixtralConfig(**sizes, num_local_experts=5, num_experts_per_tok=2)
    block = MixtralSparseMoeBlock(config).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(6, 3, 8)
    network = SimpleNamespace(model=block)
    (counts,), (scores,) = baselines.usage(network, (x, torch.zeros(6)))

    expected, norms = torch.zeros(5), torch.zeros(5)
    for token in x.reshape(-1, 8):
        best, chosen = (block.gate.weight @ token).softmax(0).topk(2)
        for gate, expert in zip(best / best.sum(), chosen.tolist()):
            half, up = (block.experts.gate_up_proj[expert] @ token).chunk(2)
            given = block.experts.down_proj[expert] @ (nn.functional.silu(half) * up)
            expected[expert] += 1
            norms[expert] += (gate * given.norm()).item()
    assert counts.tolist() == expected.tolist()
    assert counts.sum() == 2 * 18
    torch.testing.assert_close(scores, (norms / expected.clamp_min(1)).double(), rtol=1e-5, atol=0)


def test_the_lowest_go_in_each_layer_or_by_one_threshold(baselines) -> None:
    axes = tuple(SimpleNamespace(name=name, size=3, min_keep=2) for name in "ab")
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([9.0, 7.0, 8.0])}
    each = baselines.lowest(axes, scores, 2, everywhere=True)
    assert each["a"].tolist() == [False, True, True]
    assert each["b"].tolist() == [True, False, True]
    # One threshold would take two of the first layer, whose router needs two: the second gives one.
    once = baselines.lowest(axes, scores, 2, everywhere=False)
    assert once["a"].tolist() == [False, True, True]
    assert once["b"].tolist() == [True, False, True]
    assert baselines.lowest(axes, scores, 1, everywhere=False)["b"].all()
