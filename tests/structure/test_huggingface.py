"""Compressed Hugging Face models: stock files, uneven widths, bit-exact reload, generation."""

import json

import pytest
import torch

from probcomp.structure import load, save, shrink, trace
from probcomp.structure.config_search import layer_list, search, shapes_of
from probcomp.structure.gate import run

from .zoo import DECODER
from .zoo_holdout import ZOO

CUT = torch.zeros(1, dtype=torch.bool)


def made(name, keep_of):
    """The network cut as ``keep_of(axis, position among its kind)`` says (units that go)."""
    entry = ZOO[name]
    model = entry.model(torch.float32)
    example = entry.example("first", torch.float32)
    structure = trace(model, example)
    seen, keep = {}, {}
    for axis in structure.axes:
        if axis.blocked is None:
            seen[axis.kind] = seen.get(axis.kind, -1) + 1
            gone = keep_of(axis, seen[axis.kind])
            if gone:
                keep[axis.name] = torch.arange(axis.size) >= gone
    second = entry.example("second", torch.float32)
    return shrink(model, structure, keep, surgery="module"), (example, second)


def equal(a, b, inputs):
    return all(torch.equal(x, y) for i in inputs for x, y in zip(run(a, i), run(b, i), strict=True))


def widths(axis, i):
    """Even neurons (a multiple of 8 goes), one key-value head or one head less, in every layer."""
    return {"neuron": 8 if axis.size == 56 else 0}.get(axis.kind, 0)


EVEN = ["llama", "mistral", "qwen3", "gemma", "phi3", "bert", "opt", "gpt2", "vit", "gpt_neox"]


@pytest.mark.parametrize("name", EVEN)
def test_even_widths_load_with_from_pretrained(name, tmp_path):
    model, inputs = made(name, widths)
    saved = save(model, tmp_path)
    assert saved.form == "huggingface", saved.not_stock
    stock, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(stock.eval(), model, inputs)
    assert equal(load(tmp_path), model, inputs)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "per_layer_config" not in config
    assert 48 in config.values()


UNEVEN = {
    "llama": {"neuron": (8, 24), "kv_group": (0, 1)},
    "mistral": {"neuron": (8, 24), "kv_group": (1, 0)},
    "qwen3": {"neuron": (8, 24), "kv_group": (0, 2)},
    "gemma": {"neuron": (8, 24), "kv_group": (0, 1)},
    "phi3": {"neuron": (8, 24), "kv_group": (0, 1)},
    "llama_one_kv": {"neuron": (8, 24), "head": (2, 0)},
    "mixtral": {"neuron": (8, 24), "expert": (0, 2)},
    "qwen3_moe": {"neuron": (8, 16), "expert": (2, 0), "kv_group": (0, 1)},
    "vit": {"neuron": (8, 24), "head": (2, 1)},
    "bert": {"neuron": (8, 24)},
    "opt": {"neuron": (8, 24)},
    "gpt_neox": {"neuron": (8, 24)},
}


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_widths_are_per_layer_config_and_come_back_bit_for_bit(name, tmp_path):
    plan = UNEVEN[name]

    def gone(axis, i):
        return plan[axis.kind][i] if axis.kind in plan and i < 2 else 0

    model, inputs = made(name, gone)
    saved = save(model, tmp_path)
    assert saved.form == "huggingface", saved.not_stock
    loaded = load(tmp_path)
    assert type(loaded).__name__ == type(model).__name__
    assert isinstance(loaded, type(model))
    assert equal(loaded, model, inputs)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["per_layer_config"]
    assert config["architectures"] == [type(model).__name__]
    if model.can_generate():
        ids = inputs[0]["input_ids"][:1]
        outputs = [
            m.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=6,
                do_sample=False,
                use_cache=cache,
            )
            for m, cache in ((loaded, True), (loaded, False), (model, True))
        ]
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])


def test_a_loaded_uneven_model_can_be_saved_again(tmp_path):
    model, inputs = made("llama", lambda a, i: 8 * (i + 1) if a.kind == "neuron" and i < 2 else 0)
    save(model, tmp_path / "a")
    again = save(load(tmp_path / "a"), tmp_path / "b")
    assert equal(load(tmp_path / "b"), model, inputs)
    assert again.form == "huggingface", again.not_stock


def test_dropped_blocks_shorten_the_configuration(tmp_path):
    entry = ZOO["llama"]
    model = entry.model(torch.float32)
    structure = trace(model, entry.example())
    keep = {a.name: CUT for a in structure.axes if a.kind == "layer" and "layers.0." in a.name}
    model = shrink(model, structure, keep, surgery="module")
    saved = save(model, tmp_path)
    assert saved.form == "huggingface", saved.not_stock
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 1
    assert equal(load(tmp_path), model, (entry.example(),))


def test_what_no_configuration_says_is_saved_as_a_module_with_the_reason(tmp_path):
    model, inputs = made("bert", lambda a, i: 2 if a.kind == "head" else 0)
    saved = save(model, tmp_path)
    assert saved.form == "module"
    assert saved.not_stock
    recipe = json.loads((tmp_path / "probcomp.json").read_text())
    assert recipe["not_stock"] == saved.not_stock
    assert not (tmp_path / "config.json").exists()
    assert equal(load(tmp_path), model, inputs)


def test_the_tokenizer_goes_along(tmp_path):
    from transformers import BertTokenizerFast

    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    )
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    model = ZOO["bert"].build()
    save(model, tmp_path / "one", tokenizer=tokenizer)
    assert (tmp_path / "one" / "tokenizer.json").is_file()
    # a model that was loaded from a local directory takes the tokenizer from there
    save(type(model).from_pretrained(tmp_path / "one"), tmp_path / "two")
    ours = (tmp_path / "two" / "tokenizer.json").read_text()
    assert ours == (tmp_path / "one" / "tokenizer.json").read_text()


def test_half_precision_and_double_come_back(tmp_path):
    for dtype in (torch.bfloat16, torch.float64):
        model = ZOO["llama"].build().to(dtype)
        assert save(model, tmp_path).form == "huggingface"
        loaded = load(tmp_path)
        assert loaded.dtype == dtype
        assert equal(loaded, model, (ZOO["llama"].example(),))


def test_the_search_knows_no_field_by_name():
    from transformers import LlamaConfig, LlamaForCausalLM

    target = shapes_of(LlamaForCausalLM(LlamaConfig(**{**DECODER, "intermediate_size": 44})))
    start = LlamaConfig(**DECODER)
    assert search(LlamaForCausalLM, start, target) == {"intermediate_size": 44}
    target["model.layers.0.mlp.up_proj.weight"] = (45, 36)
    assert search(LlamaForCausalLM, start, target) is None
    assert layer_list(ZOO["llama"].build()) == "model.layers"
    assert layer_list(ZOO["t5"].build()) is None
