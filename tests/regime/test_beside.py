"""What simpler advisers say beside the advice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from probcomp.regime import advise
from probcomp.regime.beside import MEASURED, Opinion, by_hand, measured
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.table import read_runs
from probcomp.regime.words import details


@pytest.fixture
def runs():
    """Nine settings, twice: cut off where sparse; unlike at few epochs where denser."""
    epochs, density = (
        np.tile(v.ravel(), 2) for v in np.meshgrid([10.0, 40, 160], [0.05, 0.2, 0.8])
    )
    columns = {
        "epochs": epochs,
        "density": density,
        "test_error": 0.2 - 0.1 * density + 0.001 * np.arange(18),
        "lmc": np.where(density < 0.1, -0.3, 0.0),
        "cka": np.where(epochs < 20, 0.90, 0.95),
    }
    return read_runs(columns)


@pytest.mark.parametrize(
    ("epochs", "density", "action"),
    [(160, 0.05, "raise"), (10, 0.05, "raise"), (10, 0.2, "lower"), (160, 0.8, "keep")],
)
def test_the_rule_by_hand_reads_the_run_at_the_present_setting(runs, epochs, density, action):
    said = by_hand(runs, Coordinates.of(runs), np.array([float(epochs)]), density)
    assert said == Opinion(action)


def test_the_rule_by_hand_names_the_run_it_reads_where_there_is_none(runs):
    said = by_hand(runs, Coordinates.of(runs), np.array([12.0]), 0.7)
    assert said.action == "lower"
    assert said.basis == "of the run at epochs 10, density 0.8"


def test_each_of_them_answers_beside_the_advice(spin_glass):
    """A hot ferromagnet: everything that learns from the errors says lower, as the model does."""
    said = advise(spin_glass[0], density=2.0, at={"temperature": 2.2})
    for name in ("Gaussian process", "quadratic"):
        assert said.beside[name].action == "lower"
        assert said.beside[name].probability > 0.8
    assert said.beside["coldest"] == Opinion("lower")
    assert "quadratic: lower" in details(said)["others"]
    assert json.loads(json.dumps(said.to_json()))["beside"]["coldest"]["action"] == "lower"
    assert advise(spin_glass[0], density=2.0).beside["coldest"] == Opinion("keep")


def test_a_model_without_processes_has_no_opinion_of_one(spin_glass):
    said = advise(replace(spin_glass[0], process=None), density=2.0)
    assert "Gaussian process" not in said.beside
    assert "quadratic" in said.beside


def test_every_share_that_is_printed_was_measured():
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "regime_designs.json"
    mean = json.loads(results.read_text())["result"]["mean"]
    named = {
        "regime model": "regime",
        "Gaussian process": "process",
        "quadratic": "quadratic",
        "rule by hand": "connectivity_rule",
        "coldest": "longest_training",
    }
    assert {name: round(mean[key]["accuracy"], 2) for name, key in named.items()} == MEASURED
    for name, share in MEASURED.items():
        assert f"{name} {share:.0%}" in measured()
