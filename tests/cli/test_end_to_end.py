"""The command as a user runs it: a real process, the real recipe, the fastest method."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from probcomp.report import Report


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict]:
    place = tmp_path_factory.mktemp("run")
    code = "from probcomp.cli import main; main()"
    arguments = ["compress", "--method", "magnitude", "--budget", "params=0.3", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--out", str(place / "out")],
        cwd=place, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran, json.loads(ran.stdout)


def test_budget_is_met_and_the_files_are_there(finished, tmp_path) -> None:
    _, result = finished
    (line,) = result["budget"]
    assert line["achieved"] <= 0.3
    assert result["accuracy"]["compressed"]["value"] > 0.9
    assert {"report.html", "report.json", "model"} <= set(result["files"])


def test_stdout_is_the_report_file(finished) -> None:
    _, result = finished
    result = dict(result)
    out = result.pop("out")
    result.pop("files")
    with open(f"{out}/report.json", encoding="utf-8") as file:
        assert json.load(file) == result
    assert Report.from_json(result).command.startswith("probcomp compress")


def test_the_written_model_is_a_model_again(finished) -> None:
    from probcomp.cli.sources import load_model

    _, result = finished
    model, _ = load_model(f"{result['out']}/model")
    assert sum(p.numel() for p in model.parameters()) == result["compressed"]["params"]


CHECKPOINT = """
from pathlib import Path

import torch
from torch import nn

def build():
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    file = Path(__file__).with_name("weights.pt")
    net.load_state_dict(torch.load(file, weights_only=True))
    return net
"""


def test_a_torch_checkpoint_without_training(tmp_path) -> None:
    """A state dict, and a function that builds its network: half of the units go."""
    from probcomp.cli.sources import load_model

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "net.py").write_text(CHECKPOINT)
    code = "from probcomp.cli import main; main()"
    arguments = ["compress", "net.py:build", "--data", "digits", "--method", "turbo-vbi-post"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--budget", "prunable=0.5", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    model, _ = load_model(str(tmp_path / result["out"] / "model"))
    first, dense = (dict(m.named_parameters())["0.weight"].detach() for m in (model, net))
    assert first.shape == (12, 64)
    left = (first[:, None] == dense).all(2)  # what computes a unit is that of the checkpoint
    assert left.any(1).all()
    assert result["prediction"]["increase"] > 0
