"""``probcomp decode`` as a command line."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from probcomp.cli.app import run
from probcomp.cli.decode import parse_options


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


def test_json_and_files(tmp_path):
    where, picture = tmp_path / "result.json", tmp_path / "one.png"
    status, out, _ = call("-p", "+385+267", "--json", "--out", where, "--plot", picture)
    assert status == 0
    assert json.loads(out) == json.loads(where.read_text())
    assert json.loads(out)["texts"] == ["12,15,06|652"]
    assert picture.read_bytes().startswith(b"\x89PNG")


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
