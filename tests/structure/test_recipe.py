"""Saving and loading plain modules and graphs: bit-exact, no pickle, all or nothing."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from probcomp.errors import InputError
from probcomp.structure import apply_masks, load, masks_of, save, shrink, trace
from probcomp.structure.gate import run

from . import nets
from .zoo_holdout import ZOO


class Holds(nn.Module):
    """Holds any attribute."""

    def __init__(self, thing: object) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.thing = thing

    def forward(self, x):
        return self.linear(x)


def same(model, directory, *inputs):
    loaded = load(directory)
    assert type(loaded) is type(model) or type(loaded).__name__ == type(model).__name__
    assert all(
        torch.equal(a, b)
        for x in inputs
        for a, b in zip(run(loaded, x), run(model, x), strict=True)
    )
    return loaded


@pytest.mark.parametrize("surgery", ["module", "graph"])
@pytest.mark.parametrize("name", ["mobilenetv2", "tied", "transposed", "opt"])
def test_cut_models_come_back_bit_for_bit(name, surgery, tmp_path):
    entry = ZOO[name]
    model = entry.model()
    structure = trace(model, entry.example())
    keep = {
        a.name: torch.arange(a.size) > 0
        for a in structure.axes
        if a.exact and a.kind not in ("layer", "head_dim") and a.size > 1
    }
    made = shrink(model, structure, keep, surgery=surgery)
    saved = save(made, tmp_path)
    assert saved.form == ("graph" if surgery == "graph" else "module")
    loaded = same(made, tmp_path, entry.example("first"), entry.example("second"))
    assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
        n: p.requires_grad for n, p in made.named_parameters()
    }
    assert set(loaded.state_dict()) == set(made.state_dict())


def test_no_file_holds_a_pickle(tmp_path):
    save(nets.MLP(), tmp_path)
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}
    for file in tmp_path.iterdir():
        with pytest.raises(Exception, match=r".*"):
            pickle.loads(file.read_bytes())


def test_masks_ties_modes_and_buffers_come_back(tmp_path):
    model = nets.TiedAutoencoder().train()
    model.register_buffer("scratch", torch.arange(3), persistent=False)
    mask = torch.rand(14, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    apply_masks(model, {"mix.weight": mask})
    model.encode.weight.requires_grad_(False)
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.training
    assert loaded.mix.weight is loaded.again.weight
    assert torch.equal(masks_of(loaded)["mix.weight"], mask)
    assert not loaded.encode.weight.requires_grad
    assert torch.equal(loaded.scratch, model.scratch)
    assert "scratch" not in loaded.state_dict()
    loaded(torch.randn(4, 9)).sum().backward()
    assert bool((loaded.mix.weight.grad[~mask] == 0).all())


@pytest.mark.parametrize(
    "thing",
    [
        None,
        -3,
        2.5,
        float("inf"),
        "text",
        (1, (2.0, "x")),
        [1, [True]],
        {"a": (1,), 2: None},
        {3, 4},
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cpu"),
        torch.relu,
        nn.functional.gelu,
        nn.Linear,
    ],
    ids=lambda thing: getattr(thing, "__name__", str(thing)),
)
def test_plain_attributes_come_back(thing, tmp_path):
    save(Holds(thing), tmp_path)
    back = load(tmp_path).thing
    assert back == thing
    assert type(back) is type(thing)


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (lambda x: x, "cannot be imported by name"),
        (object(), "without pickle"),
        (nn.Linear(2, 2).weight.to_sparse(), "dense tensors"),
    ],
    ids=["lambda", "object", "sparse"],
)
def test_what_cannot_be_data_is_refused_by_name_and_nothing_is_written(thing, why, tmp_path):
    model = Holds([thing])
    with pytest.raises(InputError, match=why) as caught:
        save(model, tmp_path / "out")
    assert "Holds.thing" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_local_classes_and_hooks_are_refused(tmp_path):
    class Local(nn.Module):
        pass

    with pytest.raises(InputError, match="top level of a module"):
        save(Local(), tmp_path)
    model = nets.MLP()
    model.layers[0].register_forward_hook(lambda *a: None)
    with pytest.raises(InputError, match=r"layers\.0: it has hooks"):
        save(model, tmp_path)


def test_a_refused_save_keeps_the_earlier_model(tmp_path):
    model = nets.MLP()
    (tmp_path / "notes.txt").write_text("mine")
    save(model, tmp_path)
    with pytest.raises(InputError):
        save(Holds(object()), tmp_path)
    same(model, tmp_path, (torch.randn(2, 9),))
    save(nets.SharedTwice(), tmp_path)
    assert isinstance(load(tmp_path), nets.SharedTwice)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def edited(directory: Path, change) -> None:
    recipe = json.loads((directory / "probcomp.json").read_text())
    change(recipe)
    (directory / "probcomp.json").write_text(json.dumps(recipe))


def test_damaged_saves_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no probcomp\.json"):
        load(tmp_path)
    cases = [
        (lambda r: r.update(format=99), "format 99"),
        (lambda r: r.pop("format"), "format number"),
        (lambda r: r.update(form="magic"), "unknown form"),
        (lambda r: r.pop("module"), "lacks the entry"),
        (lambda r: r["module"].pop("modules"), "malformed"),
        (lambda r: r["module"]["modules"][""].update({"class": "os:system"}), "not a torch module"),
        (lambda r: r["module"]["modules"][""].update({"class": "no.such:X"}), "cannot import"),
        (lambda r: r["module"]["tensors"]["layers.0.weight"].update(shape=[1]), "layers.0.weight"),
        (
            lambda r: r["module"]["modules"][""]["attributes"].update(f={"function": "os:system"}),
            "refused to import 'os:system'",
        ),
    ]
    for change, why in cases:
        save(nets.MLP(), tmp_path)
        edited(tmp_path, change)
        with pytest.raises(InputError, match=why) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    save(nets.MLP(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(InputError, match="safetensors"):
        load(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is missing"):
        load(tmp_path)


def test_a_graph_may_call_operators_only(tmp_path):
    entry = ZOO["mlp"]
    model = entry.model()
    structure = trace(model, entry.example())
    axis = structure.axes[[a.size for a in structure.axes].index(24)]
    made = shrink(model, structure, {axis.name: torch.arange(24) > 2}, surgery="graph")
    for target in ({"python": "os:system"}, {"operator": "aten::no_such", "overload": ""}):
        save(made, tmp_path)

        def change(recipe, target=target):
            calls = [n for n in recipe["graph"]["nodes"] if n["kind"] == "call_function"]
            calls[0]["target"] = target

        edited(tmp_path, change)
        with pytest.raises(InputError, match=r"not allowed|does not exist"):
            load(tmp_path)


def test_a_read_only_place_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save(nets.MLP(), tmp_path / "file" / "model")
