"""The public entry: errors in one clear line, nothing left changed, meta models, cache handling."""

import resource
import time

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import TraceError
from probcomp.structure import trace

from .cutting import free
from .zoo_holdout import ZOO

X = torch.randn(2, 4)


class Branching(nn.Module):
    """Branches on a value: no fixed graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Dispatching(nn.Module):
    """Calls a layer with the rows that a condition chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        (rows,) = torch.where(x[:, 0] > 0)
        return torch.zeros_like(x).index_add(0, rows, self.layer(x[rows]))


class Strange(nn.Module):
    def forward(self, x: Tensor) -> object:
        return object()


@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        (nn.Linear(4, 3), X, r"got Tensor; for one tensor pass \(tensor,\)"),
        (nn.Linear(4, 3), (), "no example inputs"),
        (nn.Linear(4, 3), (3,), "expected a tensor"),
        (nn.Linear(5, 3), (X,), r"does not run on the example inputs \(0: \(2, 4\)\)"),
        (nn.Linear(4, 3), {"wrong": X}, "does not run on the example inputs"),
        (Branching(), (X,), "control flow that depends on tensor values"),
        (Dispatching(), (X,), "run each expert on all tokens"),
        (Strange(), (X,), "returns a object"),
    ],
    ids=["bare", "none", "number", "shape", "name", "branch", "dispatch", "result"],
)
def test_errors_are_one_line(model: nn.Module, inputs: object, says: str) -> None:
    with pytest.raises(TraceError, match=says) as caught:
        trace(model, inputs)
    assert "\n" not in str(caught.value)


def test_unknown_output_lists_those_there_are() -> None:
    model = ZOO["llama"]
    with pytest.raises(TraceError, match="no 'hidden'; it returns"):
        trace(model.build(), model.inputs(2, 5), outputs=["hidden"])


def test_the_model_is_left_as_it_was() -> None:
    entry = ZOO["llama"]
    model = entry.build()
    model.config.use_cache = True
    model.train()
    model.model.norm.eval()
    forward = model.forward
    before = {n: p.clone() for n, p in model.named_parameters()}
    trace(model, entry.inputs(*entry.first))
    assert model.config.use_cache is True
    assert model.training
    assert not model.model.norm.training
    assert model.model.layers[0].training
    assert model.forward == forward
    assert "forward" not in vars(model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_auxiliary_outputs_can_be_left_out() -> None:
    entry = ZOO["t5"]
    model = entry.build()
    inputs = entry.inputs(*entry.first)
    names = [a.kind for a in free(trace(model, inputs))]
    freed = [a.kind for a in free(trace(model, inputs, outputs=["logits"]))]
    assert "residual" not in names
    assert "residual" in freed


def test_a_module_without_parameters_has_no_axes() -> None:
    assert trace(nn.ReLU(), (X,)).axes == ()


def test_trace_on_meta_equals_trace_on_memory() -> None:
    entry = ZOO["llama"]
    inputs = entry.inputs(*entry.first)
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    full = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def shape(structure):
        return [(a.name, a.kind, a.size, a.cost, a.exact) for a in structure.axes]

    assert shape(trace(empty, (X,))) == shape(trace(full, (X,)))
    model = entry.build()
    on_memory = shape(trace(model, inputs))
    assert shape(trace(model.to("meta"), inputs)) == on_memory


def test_a_large_model_on_meta_takes_no_memory() -> None:
    """Four layers at the widths of a 7-billion model; time does not depend on the width."""
    _trace_llama(layers=4, seconds=60)


@pytest.mark.slow
def test_a_7b_model_on_meta() -> None:
    _trace_llama(layers=32, seconds=60)  # 4 s of computing; the limit allows for a busy machine


def _trace_llama(layers: int, seconds: float) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    structure = trace(model, {"input_ids": torch.ones(2, 7, dtype=torch.long)})
    assert time.process_time() - start < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # 1 GiB, in KiB
    kinds = [a.kind for a in free(structure)]
    assert kinds.count("kv_group") == kinds.count("neuron") == layers
    assert kinds.count("layer") == 2 * layers
    assert structure.cost().params == sum(p.numel() for p in model.parameters())
