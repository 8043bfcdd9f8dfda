"""What the sampler is given, and what it says about itself."""

from dataclasses import replace

import numpy as np
import pytest

from probcomp.regime.coordinates import Coordinates
from probcomp.regime.sampler import gates, model_data, physical_knobs, schedule_ratios
from probcomp.regime.table import read_runs


@pytest.fixture
def table():
    epochs, density = np.meshgrid([10.0, 20, 40], [0.1, 0.2, 0.4])
    rows = np.repeat(np.arange(9), 2)  # two replicates a cell
    generator = np.random.default_rng(0)
    return read_runs(
        {
            "epochs": epochs.ravel()[rows],
            "density": density.ravel()[rows],
            "test_error": 0.3 - 0.3 * density.ravel()[rows] + 0.01 * generator.random(18),
            "lmc": np.where(rows < 3, -0.2, 0.0),
            "cka": 0.9 + 0.005 * generator.random(18),
        }
    )


def test_replicates_become_means_and_sums_of_squares(table):
    co = Coordinates.of(table)
    data, first = model_data(table, co)
    z = co.observables(table)
    assert len(first) == 9
    np.testing.assert_allclose(data["replicates"], 2)
    np.testing.assert_allclose(data["dof"], 9)
    pairs = [z[table.cells == cell] for cell in range(9)]
    np.testing.assert_allclose(data["z"], [pair.mean(0) for pair in pairs])
    expected = sum(((pair - pair.mean(0)) ** 2).sum(0) for pair in pairs)
    np.testing.assert_allclose(data["within"], expected, atol=1e-12)
    # Repeated runs show the error of measurement themselves.
    assert not data["measured"].any()
    # No barrier: censored, in the barrier channel alone.
    assert data["floored"][:, 1].sum() == 6
    assert not data["floored"][:, [0, 2]].any()


def test_runs_that_stand_alone_keep_their_stated_error_beside_repeated_ones(table):
    """One repeated setting must not silence the errors of all others."""
    some = table.take(np.r_[0, 1, np.arange(2, 18, 2)])  # one pair, eight single runs
    stated = np.zeros((len(some), 3))
    stated[:, 0] = 0.01
    stated[4] = 0.0  # states none
    some = replace(some, measured=stated)
    co = Coordinates.of(some)
    data, first = model_data(some, co)
    pair, silent = data["replicates"] == 2, first == 4
    assert pair.sum() == silent.sum() == 1
    assert not data["measured"][pair | silent].any()
    np.testing.assert_allclose(
        data["measured"][~(pair | silent), 0],
        co.measured(some)[first][~(pair | silent), 0] ** 2,
    )
    assert (data["measured"][~(pair | silent), 0] > 0).all()
    assert not data["measured"][:, 1:].any()


def test_schedules_bend_and_others_do_not(table):
    np.testing.assert_allclose(schedule_ratios(Coordinates.of(table)), [4.0])
    assert physical_knobs(table) == (False,)


class Chains:
    """A finished sampler with given draws."""

    def __init__(self, draws):
        self.draws = draws

    def get_samples(self, group_by_chain=False):
        return {"u": self.draws}

    def get_extra_fields(self):
        return {"diverging": np.zeros(self.draws.shape[0] * self.draws.shape[1], bool)}


def test_gates_see_chains_that_disagree_and_chains_that_stand_still():
    generator = np.random.default_rng(0)
    good = generator.normal(size=(4, 500, 3))
    assert gates(Chains(good)).ok
    apart = good + np.array([0, 0, 0, 3.0])[:, None, None]
    assert gates(Chains(apart)).rhat > 1.1
    slow = np.cumsum(good, axis=1)
    assert gates(Chains(slow)).ess < 200
    assert not gates(Chains(np.zeros((4, 500, 1)))).ok
