"""The command: what it prints, and one line for bad input."""

import json

import pytest

from probcomp.cli.advise import _print
from probcomp.cli.app import run
from probcomp.regime import advise


def test_the_printed_answer_names_what_to_do(spin_glass, capsys):
    _print(advise(spin_glass[0], density=2.0, at={"temperature": 2.2}))
    text = capsys.readouterr().out
    assert "lower the temperature: decrease temperature" in text
    for label in ("probability", "regime", "best", "gain", "error now"):
        assert label in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs --runs"),
        (["--runs", "runs.csv"], "needs --density"),
        (["--runs", "nowhere.csv", "--density", "0.1"], "nowhere.csv"),
        (["--runs", "nowhere.csv", "--density", "0.1", "--at", "3"], "--knob"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, words, capsys):
    assert run(["advise", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1


def test_too_few_runs_are_refused_before_sampling(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text(
        "epochs,density,test_error,lmc,cka\n10,0.1,0.1,0,0.9\n20,0.2,0.1,0,0.9\n"
    )
    assert run(["advise", "--runs", str(tmp_path / "runs.csv"), "--density", "0.1"]) == 2
    assert "2 distinct pilots; at least 5" in capsys.readouterr().err


@pytest.mark.slow
def test_json_on_the_published_grid(real_data, capsys):
    table = real_data / "tables" / "three_regime_pruning_epochs.csv"
    assert run(["advise", "--runs", str(table), "--density", "0.05", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # At 5 % the longest training has 17.4 % error, 60 to 80 epochs 14.6 %.
    assert said["action"] == "raise"
    assert said["turn"] == "decrease"
    assert 40 <= said["best"] <= 100
