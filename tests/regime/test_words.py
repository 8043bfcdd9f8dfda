"""Advice in words, as a terminal shows it."""

from dataclasses import replace

import pytest

from probcomp.cli.advise import _print
from probcomp.regime import advise
from probcomp.regime.design import NextPilot
from probcomp.regime.words import details, headline, span, why


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
        "table       runs.csv (for --runs)",
    ):
        assert label in text


def test_every_action_has_its_headline(spin_glass):
    said = advise(spin_glass[0], density=2.0)
    assert headline(replace(said, action="keep")).startswith("keep temperature at 0.5")
    assert headline(replace(said, action="undecided")).startswith(
        "undecided about temperature, now 0.5"
    )
    assert headline(said).endswith("(at load 2)")
    sparse = replace(said, load=0.1, load_name="density")
    assert headline(sparse).endswith("(at density 0.1, sparsity 0.9)")
    raised = headline(replace(said, action="raise", turn="increase"))
    assert raised.startswith("raise the temperature: increase temperature")
    assert "next pilot" not in details(replace(said, next=None))
    assert span((0.12345, 67.891)) == "0.123 to 67.9"
    assert "temperature 24.38 (90" in details(replace(said, best=24.375))["best"]


@pytest.fixture(scope="module")
def hot(spin_glass):
    return advise(spin_glass[0], density=2.0, at={"temperature": 2.2}, batch=2)


def test_a_move_is_said_from_where_to_where(hot):
    assert f"decrease temperature from 2.2 to about {hot.best:.3g}  (" in headline(hot)
    # The best on average lies on the other side than the likeliest gain: no target is named.
    assert "from" not in headline(replace(hot, best=2.3))


def test_probabilities_and_regimes_are_said_in_terms_of_the_knob(hot):
    told = details(hot)
    assert (
        "raise 0% (increase temperature), lower 100% (decrease temperature)" in told["probability"]
    )
    assert "(cut off from one another)" in told["regime"]
    assert told["runs"].startswith("25 of 25 settings; fit converged: R-hat")


def test_an_undecided_answer_names_its_cause_and_its_cure(hot):
    shares = {"raise": 0.3, "lower": 0.1, "keep": 0.6}
    told = replace(
        hot, action="undecided", probability=shares, gain_interval=(-0.2, 0.9), gain_points=0.4
    )
    assert "keep is likeliest with 60% (80% asked)" in why(told)
    assert "may gain -0.20 to 0.90 points, and 0.3 make a move worth it" in why(told)
    assert "the best temperature may lie from" in why(replace(told, gain_interval=(0.0, 0.0)))
    lost = replace(told, converged=False)
    assert "did not converge" in why(lost)
    assert details(lost)["what next"].startswith("add runs (other seeds")
    nothing = details(replace(told, next=None, next_batch=()))
    assert "no single run promises to settle it" in nothing["what next"]
    assert "cost 0.40 points" in nothing["what next"]
    pilot = NextPilot({"temperature": 1.0}, 0.5, 0.1, 0.449, 6.54, "decision")
    one = details(replace(told, next=pilot, next_batch=(pilot,)))
    # Half of the entropy of .3, .1, .6, which is .898 nats.
    assert one["next pilot"] == (
        "temperature 1, load 0.5 (expected to settle 50% of the doubt about the decision, about "
        "6.54 s)"
    )
    assert one["what next"] == "run the next pilot, add its row to the runs, and ask again"
    decided = replace(told, next=pilot, next_batch=(pilot,), action="keep")
    assert details(decided)["what next"].startswith("act on this, or run the next")


def test_python_prints_what_the_command_does(hot, capsys):
    _print(hot, {})
    assert str(hot) + "\n" == capsys.readouterr().out
    assert len(repr(hot)) < 5000  # neither the model nor the curves


def test_a_pilot_that_is_to_settle_nothing_tells_of_the_model(hot):
    pilot = NextPilot({"temperature": 1.0}, 0.5, 0.25, -0.004, 1.0, "information")
    told = details(replace(hot, next=pilot, next_batch=(pilot,)))["next pilot"]
    assert told.endswith("(expected to tell 0.25 nats about the model, about 1 s)")


def test_a_cost_that_nobody_knows_is_not_said(hot):
    pilot = NextPilot({"temperature": 1.0}, 0.5, 0.1, 0.4, 1.0, "decision", cost_unit="runs")
    assert details(replace(hot, next=pilot, next_batch=(pilot,)))["next pilot"].endswith(
        "decision)"
    )


def test_a_batch_is_listed_even_where_none_is_needed(hot):
    assert hot.next is None
    told = details(hot)
    assert told["next pilots"].count("nats about the model, about 4 s") == 2
    assert told["what next"].startswith("no further run is needed")


def test_a_move_against_the_regime_says_what_decides(hot):
    alike = {"I": 0.1, "II-A": 0.1, "II-B": 0.8}
    against = details(replace(hot, action="raise", regime=alike))["regime"]
    assert against.endswith("; II-B alone would say keep or lower: here the errors decide")
    cut = details(replace(hot, action="lower", regime={"I": 0.6, "II-A": 0.4, "II-B": 0.0}))
    assert cut["regime"].endswith("; I alone would say raise: here the errors decide")
    for action, regime in (
        ("lower", alike),
        ("keep", {"I": 1.0, "II-A": 0.0, "II-B": 0.0}),
        ("raise", {"I": 0.2, "II-A": 0.4, "II-B": 0.4}),  # none is likely
    ):
        assert "alone" not in details(replace(hot, action=action, regime=regime))["regime"]
