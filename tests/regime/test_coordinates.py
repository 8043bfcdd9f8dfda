"""Scaling there and back."""

from dataclasses import replace

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.coordinates import BARRIER_FLOOR, SPAN, Coordinates, warp
from probcomp.regime.table import read_runs


@pytest.fixture
def table():
    epochs, density = np.meshgrid([10.0, 40.0, 160.0], [0.05, 0.2, 0.8], indexing="ij")
    return read_runs(
        {
            "epochs": epochs.ravel(),
            "density": density.ravel(),
            "test_error": 0.1 / density.ravel() ** 0.2,
            "lmc": np.linspace(-0.4, 0, 9),
            "cka": np.linspace(0.8, 0.99, 9),
        }
    )


def test_pilots_fill_the_unit_scale(table):
    co = Coordinates.of(table)
    for values in (co.load(table.load), co.settings(table.settings)):
        assert values.min() == pytest.approx(-SPAN)
        assert values.max() == pytest.approx(SPAN)
    assert co.settings([[160.0]])[0, 0] == pytest.approx(-SPAN)  # most epochs are coldest


def test_observables_invert(table):
    co = Coordinates.of(table)
    z = co.observables(table)
    np.testing.assert_allclose(co.error(z[:, 0]), table.error, rtol=1e-10)
    np.testing.assert_allclose(co.barrier(z[:, 1]), table.connectivity, atol=1e-10)
    np.testing.assert_allclose(co.similarity(z[:, 2]), table.similarity, atol=1e-10)
    at_floor = co.z_mean[1] + co.z_scale[1] * co.censor
    assert np.exp(at_floor) == pytest.approx(BARRIER_FLOOR)  # no barrier at all


def test_standard_errors_blunt_the_logarithms(table):
    """Measured values differ by the stated error in z, to first order in it."""
    se = np.array([2e-4, 3e-3, 1e-4])
    stated = replace(table, measured=np.tile(se, (9, 1)))
    co = Coordinates.of(stated)
    np.testing.assert_allclose(co.floors, 2 * se)
    np.testing.assert_allclose(co.error(co.observables(stated)[:, 0]), table.error, rtol=1e-10)
    moved = replace(
        stated,
        error=table.error + 0.01 * se[0],
        connectivity=table.connectivity - 0.01 * se[1],
        similarity=table.similarity - 0.01 * se[2],
    )
    steps = (co.observables(moved) - co.observables(stated)) / 0.01
    # The barrier's logit adds 1 / (1 - b), at most 1.7 here, which the delta method leaves out.
    expected = co.measured(stated)
    np.testing.assert_allclose(steps[:, [0, 2]], expected[:, [0, 2]], rtol=0.01)
    weak = -table.connectivity < 0.1
    np.testing.assert_allclose(steps[weak, 1], expected[weak, 1], rtol=0.15)


def test_the_floor_is_that_of_the_runs_that_state_an_error(table):
    """A median over all rows would jump from the stated value to zero at half of them."""
    measured = np.zeros((9, 3))
    measured[:3, 0] = [1e-3, 2e-3, 4e-3]
    co = Coordinates.of(replace(table, measured=measured))
    np.testing.assert_allclose(co.floors, [4e-3, BARRIER_FLOOR, 0.0])


@pytest.mark.parametrize(("power", "scale"), [(1e-6, np.log), (1.0, lambda e: e)])
def test_warp_reaches_the_log_and_the_linear_scale(table, power, scale):
    co = Coordinates.of(table)
    epochs = np.array([10.0, 25.0, 90.0, 160.0])
    bent = warp(co.settings(epochs[:, None])[:, 0], 16.0, power)
    low, high = scale(10.0), scale(160.0)
    # Power zero is approached at 1e-3, where the Box-Cox scale is within 1e-2 of the log.
    np.testing.assert_allclose(
        bent, SPAN * (1 - 2 * (scale(epochs) - low) / (high - low)), atol=1e-2
    )


def test_settings_of_the_wrong_shape_are_refused(table):
    with pytest.raises(InputError, match="epochs"):
        Coordinates.of(table).settings(np.zeros((3, 2)))
