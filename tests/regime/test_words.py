"""Advice in words, as a terminal shows it."""

from dataclasses import replace

from probcomp.cli.advise import _print
from probcomp.regime import advise
from probcomp.regime.words import details, headline, span


def test_the_printed_answer_names_what_to_do(spin_glass, capsys):
    said = advise(spin_glass[0], density=2.0, at={"temperature": 2.2})
    _print(said, {"pilots": [1, 2], "stopped": "all 2 pilots were run", "runs": "runs.csv"})
    text = capsys.readouterr().out
    assert "lower the temperature: decrease temperature" in text
    for label in (
        "probability",
        "(the temperature)",
        "regime",
        "best",
        "gain",
        "error now",
        "others      ",
        "record      right on a published grid",
        "2 cells (all 2 pilots",
    ):
        assert label in text


def test_every_action_has_its_headline(spin_glass):
    said = advise(spin_glass[0], density=2.0)
    assert headline(replace(said, action="keep")).startswith("keep temperature at 0.5")
    assert headline(replace(said, action="undecided")).startswith("undecided about temperature")
    assert headline(said).endswith("(at load 2)")
    sparse = replace(said, load=0.1, load_name="density")
    assert headline(sparse).endswith("(at density 0.1, sparsity 0.9)")
    raised = headline(replace(said, action="raise", turn="increase"))
    assert raised.startswith("raise the temperature: increase temperature")
    assert "next pilot" not in details(replace(said, next=None))
    assert span((0.12345, 67.891)) == "0.123 to 67.9"
    assert "temperature 24.38 (90" in details(replace(said, best=24.375))["best"]
