"""What the records of the published grid claim, asked of the model as it is."""

import pytest


@pytest.mark.slow
def test_nine_pilots_of_the_published_grid_say_where_to_go(real_data, module, monkeypatch):
    """The first three designs: the rest, and the shares that are printed, are in the records."""
    part = module("_regime_grid")
    monkeypatch.setattr(part, "clear", lambda: None)  # fits of one shape: one compilation
    found = part.designs(3, 0, module("_regime_fits").Fits())
    assert found["converged"] == 1.0
    for row in found["each"]:
        assert row["regime"]["wrong_direction"] == 0.0
    mean = found["mean"]
    assert mean["regime"]["moves_right"] >= 0.8
    assert mean["regime"]["brier"] < mean["quadratic"]["brier"]
    assert mean["regime"]["accuracy"] > mean["connectivity_rule"]["accuracy"]
