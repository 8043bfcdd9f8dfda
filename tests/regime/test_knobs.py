"""Knobs: which way is hotter, and on which scale."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.knobs import KNOWN, Knob, parse_knob


@pytest.mark.parametrize(
    ("name", "cold", "hot"),
    [
        ("lr", 0.01, 0.1), ("batch_size", 256, 16), ("momentum", 0.5, 0.9), ("epochs", 160, 10),
        ("weight_decay", 1e-5, 1e-3), ("sam_rho", 0.1, 0.8), ("dropout", 0.0, 0.5),
    ],
)  # fmt: skip
def test_every_known_knob_gets_hotter_the_right_way(name, cold, hot):
    low, high = KNOWN[name].coordinate([cold, hot])
    assert low < high


def test_stationary_noise_has_its_exponents():
    """``ln T = ln lr - ln batch - ln(1 - momentum)``: a doubling of each counts the same."""
    doublings = {"lr": (0.1, 0.2), "batch_size": (64, 32), "momentum": (0.8, 0.9)}
    for name, pair in doublings.items():
        assert np.ptp(KNOWN[name].coordinate(pair)) == pytest.approx(np.log(2))
        assert KNOWN[name].physical


def test_a_schedule_lies_between_log_and_linear():
    knob = KNOWN["epochs"]
    np.testing.assert_allclose(knob.coordinate([2.0, 8.0], 0.0), -np.log([2, 8]))
    np.testing.assert_allclose(knob.coordinate([2.0, 8.0], 1.0), [-1, -7])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("noise", "which way is hotter"),
        ("lr:down", "the direction is 'up'"),
        ("missing", "unknown knob column"),
        ("noise:sideways", "write noise:up if a larger value is hotter, noise:down if"),
    ],
)
def test_bad_directions_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        parse_knob(spec, ["noise", "lr"])
    assert parse_knob("noise:up", ["noise"]) == Knob("noise", "up", "linear")


def test_values_without_a_place_on_the_scale_are_refused():
    with pytest.raises(InputError, match="logarithm"):
        KNOWN["lr"].check(np.array([0.0, 1.0]))
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        KNOWN["momentum"].check(np.array([0.9, 1.0]))
    with pytest.raises(InputError, match="unknown knob scale"):
        Knob("x", "up", "cubic")
