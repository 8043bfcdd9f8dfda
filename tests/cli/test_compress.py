import json
from pathlib import Path

import numpy as np
import pytest
import torch

from probcomp.priors import Lattice
from probcomp.recipes.post_weights_config import WeightsConfig
from probcomp.report import Report

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

def data():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    return (x, torch.arange(30) % 3), (x[:9], torch.arange(9) % 3)

def one():
    return data()[0]

def broken():
    print("noise")
    return 1 / 0

def number():
    return 3
"""


@pytest.fixture
def net(tmp_path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def test_json_is_the_report_and_nothing_else(cli, recipe, net, sample) -> None:
    ran = cli("compress", "net.py:build", "--data", "net.py:data", "--json", "--out", "o")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    assert value.pop("out") == "o"
    assert value.pop("files") == ["report.json"]
    assert value == sample.to_json()
    assert "talks on standard output" in ran.err


def test_everything_reaches_the_recipe(cli, recipe, net) -> None:
    ran = cli(
        "compress", "net.py:build", "--data", "net.py:data", "--budget", "macs=40%", "--seed", 7,
        "--prior", "lattice:field=0,coupling=1.2", "--checkpoint", "c",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    (call,) = recipe.calls
    assert str(call["budget"]) == "macs=0.4"
    assert (call["seed"], call["method"], call["checkpoint"]) == (7, "turbo-vbi", Path("c"))
    assert isinstance(call["prior"], Lattice)
    assert call["prior"].coupling == 1.2
    assert isinstance(call["model"], torch.nn.Sequential)
    assert [len(call["data"][0]), len(call["test"][0])] == [30, 9]
    assert call["command"] == (
        "probcomp compress net.py:build --data net.py:data --budget macs=0.4 --method turbo-vbi "
        "--prior lattice:field=0,coupling=1.2 --seed 7 --out probcomp-out"
    )


def test_a_memory_limit_leaves_the_choice_of_road_to_the_recipe(cli, recipe, net) -> None:
    """The recipe goes after training for these settings, and its report says so."""
    ran = cli("compress", "net.py:build", "--data", "net.py:data", "--memory-limit", 2)
    assert ran.status == 0, ran.err
    (call,) = recipe.calls
    assert call["method"] == "turbo-vbi"
    assert call["config"].limit == 2 * 2**30
    assert "--method turbo-vbi " in call["command"]
    assert "--memory-limit 2" in call["command"]


def test_a_memory_limit_fits_the_settings_of_the_method(cli, recipe, net) -> None:
    given = ("compress", "net.py:build", "--data", "net.py:data", "--budget", "params=0.5")
    limited = (*given, "--memory-limit", 0.5)
    assert cli(*limited, "--method", "turbo-vbi-post-weights").status == 0
    (call,) = recipe.calls
    assert isinstance(call["config"], WeightsConfig)
    assert call["config"].limit == 2**29
    refused = cli(*limited, "--method", "magnitude")
    assert refused.status != 0
    assert "belongs to turbo-vbi-post and turbo-vbi-post-weights" in refused.err


def test_prints_a_table_and_where_it_was_written(cli, recipe, net) -> None:
    ran = cli("compress", "net.py:build", "--data", "net.py:one")
    assert ran.status == 0, ran.err
    assert "non-zero parameters" in ran.out
    assert "Written to probcomp-out: report.json" in ran.out
    assert Report.read("probcomp-out/report.json")
    assert recipe.calls[0]["test"] is None


def test_without_a_model_a_network_is_trained_on_the_digits(cli, recipe) -> None:
    ran = cli("compress", "--seed", 1)
    assert ran.status == 0, ran.err
    (call,) = recipe.calls
    assert call["name"] == "64-300-100-10"
    assert call["data_name"] == "scikit-learn digits"
    x, y = call["test"]
    assert (call["model"](x).argmax(1) == y).double().mean() > 0.95
    assert str(call["budget"]) == "params=0.1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--budget", "parms=0.1"), "unknown budget unit 'parms'"),
        (("--budget", "params=-1"), "out of range"),
        (("--budget", "params"), "UNIT=VALUE"),
        (("--method", "turbo"), "Did you mean 'turbo-vbi'"),
        (("--prior", "latice:field=0"), "Did you mean 'lattice'"),
        (("--data", "x.npz"), "needs a MODEL"),
        (("net.py:build",), "needs --data"),
        (("absent", "--data", "digits"), "no model at absent"),
        (("net.py", "--data", "digits"), "name the function"),
        (("net.py:absent", "--data", "digits"), "no function 'absent'; it has build, data"),
        (("net.py:broken", "--data", "digits"), "ZeroDivisionError at line 18"),
        (("net.py:number", "--data", "digits"), "returned int; expected a torch module"),
        (("gone.py:build", "--data", "digits"), "no file gone.py"),
        (("net.py:build", "--data", "gone.npz"), "no data at gone.npz"),
        (("net.py:build", "--data", "net.py:number"), "returned int; expected (inputs, targets)"),
        (("--out", "net.py"), "is not a directory"),
        (("--out", "net.py/below"), "is not a directory"),
        (("--out", "/proc/probcomp"), "cannot write to /proc/probcomp"),
        (("--checkpoint", "net.py"), "is not a directory"),
    ],
)
def test_bad_input_is_refused_before_any_work(refused, recipe, net, arguments, says) -> None:
    assert says in refused("compress", *arguments)
    assert recipe.calls == []


def test_nan_in_the_data_is_refused(refused, recipe, net, tmp_path) -> None:
    x = np.zeros((6, 4))
    x[3, 2] = np.nan
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(6) % 3)
    assert "NaN" in refused("compress", "net.py:build", "--data", "d.npz")


def test_a_full_disk_is_refused_before_the_work(refused, recipe, net, monkeypatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(1, 1, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "0 MB are free" in refused("compress")
    assert recipe.calls == []


def test_an_interrupt_leaves_nothing(cli, recipe, net) -> None:
    recipe.error = KeyboardInterrupt()
    ran = cli("compress", "net.py:build", "--data", "net.py:data", "--out", "o")
    assert ran.status == 130
    assert not Path("o").exists()


def test_a_hugging_face_directory(cli, recipe, tmp_path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "bert")
    ids, labels = np.arange(20).reshape(4, 5) % 20, np.arange(4) % 3
    np.savez(tmp_path / "d.npz", input_ids=ids, labels=labels)
    ran = cli("compress", "bert", "--data", "d.npz")
    assert ran.status == 0, ran.err
    (call,) = recipe.calls
    assert type(call["model"]) is transformers.BertForSequenceClassification
    assert call["name"] == "bert"
    assert set(call["data"]) == {"input_ids", "labels"}
    for before, after in zip(model.parameters(), call["model"].parameters()):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "neither config.json nor"),
        ({"config.json": "{}"}, "no *.safetensors"),
        ({"config.json": "{"}, "not valid JSON"),
        (
            {"config.json": '{"architectures": ["OurNet"]}', "model.safetensors": ""},
            "architectures ['OurNet']",
        ),
        (
            {"config.json": '{"architectures": ["BertModel"], "model_type": "bert"}',
             "model.safetensors": "damaged"},
            "does not load as BertModel",
        ),
    ],
)  # fmt: skip
def test_model_directories_that_do_not_load(refused, recipe, tmp_path, files, says) -> None:
    (tmp_path / "model").mkdir()
    for name, text in files.items():
        (tmp_path / "model" / name).write_text(text)
    assert says in refused("compress", "model", "--data", "digits")
