"""``probcomp decode`` as a command line."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from probcomp.cli.app import run
from probcomp.cli.decode import parse_options
from probcomp.decoding import load_calibration
from probcomp.decoding.small.load import FOLDER
from probcomp.decoding.small.tasks import make_examples


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["decode", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def test_without_arguments_it_answers_its_own_examples():
    status, out, err = call()
    assert (status, err) == (0, "")
    assert "12,15,06|652" in out
    assert '{"k":12,"b":"x"}' in out


def test_a_prompt_that_the_embedded_model_does_not_know_is_named():
    status, _, err = call("-p", "37+85=", "-p", "+37+85")
    assert status == 0
    assert err.startswith("note: the embedded model knows prompts like +385+267")
    assert "'37+85=' is none of them" in err
    assert len(err.splitlines()) == 1


def test_json_and_files(tmp_path):
    where, picture = tmp_path / "result.json", tmp_path / "one.png"
    status, out, _ = call("-p", "+385+267", "--json", "--out", where, "--plot", picture)
    assert status == 0
    assert json.loads(out) == json.loads(where.read_text())
    assert json.loads(out)["texts"] == ["12,15,06|652"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn_is_not_called_wrong():
    status, out, _ = call("-p", "?c", "--temperature", "1", "--seed", "3")
    assert status == 0
    assert out.splitlines()[-1].split()[-1] == "drawn"
    status, out, _ = call("-p", "+385+267")
    assert float(out.splitlines()[-1].split()[-1]) < 1.0


def test_a_trained_folder_is_a_model():
    import probcomp.decoding.small as small

    status, out, _ = call(
        Path(small.__file__).parent,
        "-p",
        "+385+267",
        "--preset",
        "fixed",
        "--max-new-tokens",
        "24",
        "--json",
    )
    assert status == 0
    assert json.loads(out)["canvas"] == [24]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", ""),
        ("-p", "ABC"),
        ("-p", "+1+2", "--preset", "nothing"),
        ("-p", "+1+2", "--set", "error_step"),
        ("-p", "+1+2", "--set", "errors=1"),
        ("-p", "+1+2", "--set", "gamma=text"),
        ("-p", "+1+2", "--max-new-tokens", "0"),
        ("-p", "+1+2", "--plot", "picture.gif"),
        ("no-such-folder", "-p", "+1+2"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1


def test_options_are_json_or_text():
    assert parse_options(["gamma=0.2", "rule=joint", "extend_actions=[4,8]"]) == {
        "gamma": 0.2,
        "rule": "joint",
        "extend_actions": (4, 8),
    }


def examples(path, count=24, part="dev"):
    lines = [
        json.dumps({"prompt": e.prompt, "answer": e.answer})
        for e in make_examples("json", count, 5, part)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def copied(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(FOLDER / "small.safetensors", folder)
    return folder


def test_calibrating_writes_beside_the_model_and_is_used_from_then_on(tmp_path):
    folder = copied(tmp_path)
    status, out, _ = call(folder, "--calibrate", examples(tmp_path / "dev.jsonl"))
    assert status == 0
    assert "held out" in out
    fitted = json.loads((folder / "decoding_calibration.json").read_text())
    status, out, _ = call(folder, "-p", "{k=12;b=x", "--json")
    assert status == 0
    used = json.loads(out)["config"]
    assert used["hazard"] == fitted["options"]["hazard"]
    assert json.loads(out)["texts"] == ['{"k":12,"b":"x"}']
    _, out, _ = call(folder, "-p", "{k=12;b=x", "--json", "--no-calibration")
    assert json.loads(out)["config"]["hazard"] is None


def test_a_calibration_of_other_weights_is_refused(tmp_path):
    folder = copied(tmp_path)
    file = folder / "decoding_calibration.json"
    load_calibration(FOLDER).save(file)
    value = json.loads(file.read_text())
    value["checksum"] = "0" * 64
    file.write_text(json.dumps(value))
    status, _, err = call(folder, "-p", "+1+2")
    assert status == 2
    assert "other weights" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--calibrate", "no-such-file.jsonl", "--out", "x.json"),
        ("--calibrate", "few.jsonl"),
        ("--calibrate", "few.jsonl", "--out", "x.json"),
        ("--calibrate", "bad.jsonl", "--out", "x.json"),
        ("--calibrate", "few.jsonl", "--out", "x.json", "-p", "+1+2"),
        ("-p", "+1+2", "--calibration", "a.json", "--no-calibration"),
        ("-p", "+1+2", "--calibration", "no-such-file.json"),
        ("-p", "+1+2", "--calibration", "few.jsonl"),
    ],
)
def test_bad_calibrations_are_one_line_and_leave_nothing(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples(tmp_path / "few.jsonl", 3)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "+1+2"}\n')
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "x.json").exists()
