"""Advice as a user reads it."""

import json

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import advise


def test_a_hot_ferromagnet_should_be_cooled(spin_glass):
    said = advise(spin_glass[0], density=2.0, at={"temperature": 2.2})
    assert said.action == "lower"
    assert said.turn == "decrease"
    assert said.best < 1
    assert said.gain_points > 5
    assert said.probability["lower"] > 0.95
    assert sum(said.probability.values()) == pytest.approx(1)
    assert said.error_interval[0] < said.error_points < said.error_interval[1]


def test_the_coldest_is_the_default_setting_and_is_kept_when_best(spin_glass):
    said = advise(spin_glass[0], density=2.0)
    assert said.at["temperature"] == pytest.approx(0.5)
    assert said.probability["lower"] == 0  # there is nothing colder
    assert said.regime["II-B"] > 0.5


def test_the_next_pilot_lies_among_the_runs_and_has_their_cost(spin_glass):
    model, _ = spin_glass
    said = advise(model, density=1.0, at={"temperature": 1.0}, confidence=0.99)
    if said.next is not None:
        assert 0.5 <= said.next.settings["temperature"] <= 2.2 + 1e-9
        assert 0.5 <= said.next.load <= 2.2 + 1e-9
        assert said.next.cost == pytest.approx(4.0)
        assert said.next.information > 0
    assert said.along.shape == (len(said.levels), 3)
    np.testing.assert_allclose(said.along.sum(1), 1, atol=1e-9)


def test_a_fit_that_did_not_converge_gives_no_direction(spin_glass):
    from dataclasses import replace

    from probcomp.regime.sampler import Convergence

    model = replace(spin_glass[0], convergence=Convergence(1.4, 9, 0, 1600))
    said = advise(model, density=2.0, at={"temperature": 2.2})
    assert said.action == "undecided"
    assert said.convergence.startswith("not converged")


def test_json_holds_plain_values(spin_glass):
    said = advise(spin_glass[0], density=1.0, levels=[0.6, 1.0, 2.0])
    read = json.loads(json.dumps(said.to_json(), allow_nan=False))
    assert len(read["levels"]) == 4  # the present setting joins them
    assert read["action"] == said.action


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 9.0}, "outside the runs"),
        ({"density": 1.0, "at": {"temperature": 9.0}}, "outside the runs"),
        ({"density": 1.0, "at": {"lr": 1.0}}, "unknown knob"),
        ({"density": 1.0, "knob": "lr"}, "no knob"),
        ({"density": 1.0, "levels": [1.0]}, "at least two"),
        ({"density": 1.0, "confidence": 1.5}, "confidence"),
        ({"density": 1.0, "gain": 3.0}, "gain"),
    ],
)
def test_bad_requests_are_refused(spin_glass, options, words):
    with pytest.raises(InputError, match=words):
        advise(spin_glass[0], **options)
