"""The public cut: equality with silencing, refusals, rounding, masks, fallbacks."""

import copy
import logging

import pytest
import torch
from torch import fx

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import apply_masks, masks_of, shrink, silence, trace
from probcomp.structure.gate import run
from probcomp.structure.shrink import shrink_report

from . import nets
from .zoo_holdout import ZOO

EXACT = 1e-10  # relative; float64 sums in another order


@pytest.fixture(scope="module")
def mlp():
    entry = ZOO["mlp"]
    model = entry.model()
    return model, trace(model, entry.example()), entry.example()


def first_axis(structure):
    return structure.axes[[a.size for a in structure.axes].index(24)]


def test_equals_the_silenced_model_and_leaves_the_input_alone(mlp):
    model, structure, inputs = mlp
    axis = first_axis(structure)
    before = copy.deepcopy(model.state_dict())
    keep = {axis.name: torch.arange(24) % 3 != 0}
    made = shrink(model, structure, keep)
    assert isinstance(made, nets.MLP)
    assert made.layers[0].out_features == 16
    expected = run(silence(structure, model, keep), inputs)[0]
    assert (run(made, inputs)[0] - expected).abs().max() <= EXACT * expected.abs().max()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    made.layers[1].weight.data.zero_()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_keeping_everything_gives_an_equal_copy(mlp):
    model, structure, inputs = mlp
    made = shrink(model, structure, {})
    assert made is not model
    assert torch.equal(run(made, inputs)[0], run(model, inputs)[0])


def test_the_cut_model_trains(mlp):
    model, structure, inputs = mlp
    axis = first_axis(structure)
    for surgery in ("module", "graph"):
        keep = {axis.name: torch.arange(24) > 5}
        made = shrink(model, structure, keep, surgery=surgery)
        made(*inputs).square().mean().backward()
        assert all(p.grad is not None for p in made.parameters())


def test_rounding_revives_units(mlp):
    model, structure, _ = mlp
    axis = first_axis(structure)
    made = shrink(model, structure, {axis.name: torch.arange(24) >= 11}, round_to=8)
    assert made.layers[0].out_features == 16


def test_refusals(mlp):
    model, structure, _ = mlp
    axis = first_axis(structure)
    with pytest.raises(SurgeryError, match="would keep 0 of 24"):
        shrink(model, structure, {axis.name: torch.zeros(24, dtype=torch.bool)})
    with pytest.raises(InputError, match="Did you mean"):
        shrink(model, structure, {axis.name + "x": torch.ones(24, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"expected bool \[24\]"):
        shrink(model, structure, {axis.name: torch.ones(23, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"expected bool \[24\]"):
        shrink(model, structure, {axis.name: torch.ones(24)})
    with pytest.raises(InputError, match="surgery is 'magic'"):
        shrink(model, structure, {}, surgery="magic")
    with pytest.raises(InputError, match="positive"):
        shrink(model, structure, {axis.name: torch.arange(24) > 2}, round_to=0)


def test_a_blocked_axis_and_too_few_experts_are_refused():
    entry = ZOO["qwen3_moe"]
    model = entry.model()
    structure = trace(model, entry.example())
    expert = next(a for a in structure.axes if a.kind == "expert")
    with pytest.raises(SurgeryError, match="min_keep is 2"):
        shrink(model, structure, {expert.name: torch.arange(5) < 1})
    blocked = next(a for a in structure.axes if a.blocked)
    with pytest.raises(SurgeryError, match="cannot be cut"):
        shrink(model, structure, {blocked.name: torch.arange(blocked.size) > 0})


def test_another_model_than_the_traced_one_is_refused(mlp):
    _, structure, _ = mlp
    axis = first_axis(structure)
    with pytest.raises(SurgeryError, match="not the traced one"):
        shrink(nets.MLP((9, 20, 16, 5)), structure, {axis.name: torch.arange(24) > 2})


def test_a_literal_falls_back_to_the_graph_and_says_so(caplog):
    entry = ZOO["shuffle_literal"]
    model = entry.model()
    structure = trace(model, entry.example())
    axis = next(a for a in structure.axes if a.size == 4)
    keep = {axis.name: torch.arange(4) > 1}
    with caplog.at_level(logging.WARNING, logger="probcomp"):
        made = shrink_report(model, structure, keep)
    assert made.surgery == "graph"
    assert isinstance(made.model, fx.GraphModule)
    assert "literal 8" in made.reason
    assert "literal 8" in caplog.text
    with pytest.raises(SurgeryError, match="literal 8"):
        shrink(model, structure, keep, surgery="module")


def test_a_shape_that_runs_but_computes_something_else_is_caught():
    """The default scale of attention follows the cut width: only comparing outputs shows it."""
    entry = ZOO["one_attribute"]
    model = entry.model()
    structure = trace(model, entry.example())
    dims = [a for a in structure.axes if a.kind == "head_dim"]
    made = shrink_report(model, structure, {a.name: torch.arange(6) > 1 for a in dims})
    assert made.surgery == "graph"
    assert "differs" in made.reason


@pytest.mark.parametrize("surgery", ["module", "graph"])
def test_weight_masks_are_sliced_along(mlp, surgery):
    model, structure, _ = mlp
    model = copy.deepcopy(model)
    axis = first_axis(structure)
    mask = torch.rand(24, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    apply_masks(model, {"layers.0.weight": mask})
    keep = torch.arange(24) % 2 == 0
    made = shrink(model, structure, {axis.name: keep}, surgery=surgery)
    assert torch.equal(masks_of(made)["layers.0.weight"], mask[keep])
    weight = dict(made.named_parameters())["layers.0.weight"]
    optimizer = torch.optim.Adam(made.parameters(), 0.1)
    made(torch.randn(4, 9, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert bool((weight[~mask[keep]] == 0).all())
    assert bool((weight[mask[keep]] != 0).all())
    assert torch.equal(masks_of(model)["layers.0.weight"], mask)


def test_gradients_may_be_off():
    entry = ZOO["mlp"]
    model = entry.model().requires_grad_(False)
    structure = trace(model, entry.example())
    axis = first_axis(structure)
    made = shrink(model, structure, {axis.name: torch.arange(24) > 3})
    assert not any(p.requires_grad for p in made.parameters())
