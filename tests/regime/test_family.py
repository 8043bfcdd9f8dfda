"""Ranking the networks of a family: where the answer is known, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import rank_family
from probcomp.regime.sampler import Convergence


def test_the_coldest_magnet_is_the_best_where_there_is_no_glass(spin_glass):
    model, _ = spin_glass
    hot_first = [2.0, 1.4, 0.9, 0.6]  # at bias 2.0 the error falls with every step of cold
    ranked = rank_family(model, {"temperature": hot_first}, 2.0)
    assert [c.settings["temperature"] for c in ranked] == hot_first[::-1]
    assert ranked[0].best > 0.7
    assert sum(c.best for c in ranked) == pytest.approx(1)
    assert ranked[-1].regime["II-B"] < ranked[0].regime["II-B"]
    for candidate in ranked:
        low, high = candidate.error_interval
        assert low <= candidate.error_points <= high
    said = model.predict({"temperature": 0.6}, 2.0)
    assert ranked[0].error_points == pytest.approx(100 * said.error.mean(), abs=0.3)
    assert np.all(np.diff([c.error_points for c in ranked]) >= 0)


def test_one_candidate_and_a_fit_that_did_not_converge_are_refused(spin_glass):
    model, _ = spin_glass
    with pytest.raises(InputError, match="at least two"):
        rank_family(model, {"temperature": [1.0]}, 2.0)
    with pytest.raises(InputError, match="expected temperature"):
        rank_family(model, {"epochs": [1.0, 2.0]}, 2.0)
    bad = replace(model, convergence=Convergence(1.5, 10.0, 0, 100))
    with pytest.raises(InputError, match="not converged"):
        rank_family(bad, {"temperature": [1.0, 2.0]}, 2.0)


def test_a_candidate_outside_the_runs_is_refused(spin_glass):
    """A guess there would have a wide interval, and with it a fair chance of being the best."""
    model, _ = spin_glass
    with pytest.raises(InputError, match="temperature 9 lies outside the runs"):
        rank_family(model, {"temperature": [1.0, 9.0]}, 2.0)
    with pytest.raises(InputError, match=r"load 0\.01 lies outside"):
        rank_family(model, {"temperature": [1.0, 2.0]}, 0.01)
