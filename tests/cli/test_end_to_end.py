"""The command as a user runs it: a real process, the real recipe, the fastest method."""

import json
import subprocess
import sys

import pytest

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
