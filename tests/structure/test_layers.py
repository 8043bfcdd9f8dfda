"""Residual branches leave real modules, with caches and layer numbers right."""

import pytest
import torch

from probcomp.structure import cut_graph, shrink, silence, trace
from probcomp.structure.gate import difference, run, two_sizes
from probcomp.structure.layers import StandIn
from probcomp.structure.shrink import shrink_report

from .zoo_holdout import ZOO

CUT = torch.zeros(1, dtype=torch.bool)


def setup(name, **settings):
    entry = ZOO[name]
    model = entry.model()
    return model, trace(model, entry.example(), **settings)


def branches(structure, part=""):
    return [a.name for a in structure.axes if a.kind == "layer" and part in a.name]


def greedy(model, ids, use_cache):
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        use_cache=use_cache,
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "qwen3_moe"])
@pytest.mark.parametrize("which", ["attention of layer 0", "all of layer 0"])
def test_generation_with_a_cache_equals_generation_without(name, which):
    model, structure = setup(name)
    layers = branches(structure)
    first = [n for n in layers if ".0." in n]
    keep = dict.fromkeys(first[:1] if which.startswith("attention") else first, CUT)
    made = shrink(model, structure, keep, surgery="module")
    ids = torch.randint(5, 61, (2, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(greedy(made, ids, True), greedy(made, ids, False))
    graph = cut_graph(structure, model, keep)
    for inputs in two_sizes(structure, model):
        assert difference(run(made, inputs), run(graph, inputs)) is None


def test_an_empty_block_is_dropped_and_the_rest_renumbered():
    model, structure = setup("llama")
    keep = dict.fromkeys([n for n in branches(structure) if "layers.0." in n], CUT)
    made = shrink(model, structure, keep, surgery="module")
    assert len(made.model.layers) == 1
    assert made.model.layers[0].self_attn.layer_idx == 0
    assert made.config.num_hidden_layers == 1
    assert model.config.num_hidden_layers == 2
    kept = model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(made.model.layers[0].mlp.up_proj.weight, kept)


def test_attention_alone_leaves_its_mlp_and_renumbers_the_cache():
    model, structure = setup("llama")
    name = next(n for n in branches(structure) if "layers.0.self_attn" in n)
    made = shrink(model, structure, {name: CUT}, surgery="module")
    block = made.model.layers[0]
    assert isinstance(block.self_attn, StandIn)
    assert block.self_attn.result == ("zeros", None)
    assert block.input_layernorm.result == "input"
    assert made.model.layers[1].self_attn.layer_idx == 0
    gone = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in made.parameters())
    assert gone == structure.axis(name).cost.params


@pytest.mark.parametrize("name", ["resnet_basic", "convnext", "bert", "t5", "batchnorm_residual"])
def test_all_branches_at_once(name):
    model, structure = setup(name)
    keep = dict.fromkeys([n for n in branches(structure) if not structure.axis(n).blocked], CUT)
    assert keep
    made = shrink_report(model, structure, keep)
    assert made.surgery == "module", made.reason
    silent = silence(structure, model, keep)
    for inputs in two_sizes(structure, model):
        assert difference(run(made.model, inputs), run(silent, inputs)) is None
    saved = structure.cost().params - structure.cost(keep).params
    gone = sum(p.numel() for p in model.parameters())
    gone -= sum(p.numel() for p in made.model.parameters())
    assert 0 < gone <= saved


def test_layers_and_widths_together():
    model, structure = setup("llama")
    keep = {next(n for n in branches(structure) if "layers.1.mlp" in n): CUT}
    for axis in structure.axes:
        if axis.kind in ("neuron", "kv_group") and axis.blocked is None:
            keep[axis.name] = torch.arange(axis.size) > 0
    made = shrink(model, structure, keep, surgery="module")
    silent = silence(structure, model, keep)
    for inputs in two_sizes(structure, model):
        assert difference(run(made, inputs), run(silent, inputs)) is None


def test_a_branch_written_in_one_forward_loses_its_last_module():
    model, structure = setup("one_attribute")
    keep = dict.fromkeys(branches(structure), CUT)
    made = shrink(model, structure, keep, surgery="module")
    assert made.out.width == 20  # its input has 24
    x = torch.randn(2, 5, 20, dtype=torch.float64)
    assert torch.equal(made(x), x)


def test_the_stand_in_returns_what_the_module_returned():
    x = torch.randn(2, 3)
    out = StandIn("hidden", ("zeros", None, ["argument", "bias"]))(hidden=x, bias=x)
    assert torch.equal(out[0], torch.zeros_like(x))
    assert out[1] is None
    assert out[2] is x
