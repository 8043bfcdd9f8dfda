"""What the records of the published grid claim, asked of the model as it is."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_nine_pilots_of_the_published_grid_say_where_to_go(real_data, monkeypatch):
    """The first three designs: the rest, and the shares that are printed, are in the records."""
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        part = importlib.import_module("_regime_grid")
        # Three fits of one shape: one compilation.
        monkeypatch.setattr(part, "clear", lambda: None)
        found = part.designs(3, 0, importlib.import_module("_regime_fits").Fits())
    finally:
        for name in ("_regime_grid", "_regime_fits"):  # names that others may use
            sys.modules.pop(name, None)
    assert found["converged"] == 1.0
    for row in found["each"]:
        assert row["regime"]["wrong_direction"] == 0.0
    mean = found["mean"]
    assert mean["regime"]["moves_right"] >= 0.8
    assert mean["regime"]["brier"] < mean["quadratic"]["brier"]
    assert mean["regime"]["accuracy"] > mean["connectivity_rule"]["accuracy"]
