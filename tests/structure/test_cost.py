"""Costs against direct counts: numbers of elements, and PyTorch's own FLOP counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from probcomp.structure import Cost, cut_graph, trace

from .cutting import free, run, some_units
from .zoo_holdout import ZOO

# Together they hold every kind of product: linear, addmm, attention, plain, grouped and transposed
# convolution, grouped-query attention.
MODELS = ["mlp", "lenet5", "resnet_bottleneck", "mobilenetv2", "transposed", "vit", "gpt2", "llama"]


def counted(model, inputs) -> int:
    """Half the FLOPs; attention is spelled out, as the counter does not know the CPU's kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(model, inputs)
    return counter.get_total_flops() // 2


@pytest.fixture(scope="module", params=MODELS)
def traced(request):
    entry = ZOO[request.param]
    model = entry.build()
    inputs = entry.inputs(*entry.first)
    return model, trace(model, inputs), inputs


def test_dense_cost(traced) -> None:
    model, structure, inputs = traced
    cost = structure.cost()
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.macs == counted(model, inputs)


def test_joint_removal(traced) -> None:
    model, structure, inputs = traced
    keep = {a.name: some_units(a, seed=3) for a in free(structure) if a.kind != "layer"}
    cut = cut_graph(structure, model, keep)
    cost = structure.cost(keep)
    assert cost.params == sum(p.numel() for p in cut.parameters())
    assert cost.macs == counted(cut, inputs)
    assert cost.params < structure.cost().params


def test_unit_cost_is_the_saving_of_one_unit(traced) -> None:
    _, structure, _ = traced
    for axis in free(structure):
        keep = torch.ones(axis.size, dtype=torch.bool)
        keep[-1] = False
        assert axis.cost == structure.cost() - structure.cost({axis.name: keep}), axis.name


def test_cost_arithmetic() -> None:
    assert Cost(3, 5) + Cost(1, 2) == Cost(4, 7)
    assert Cost(3, 5) - Cost(1, 2) == Cost(2, 3)
