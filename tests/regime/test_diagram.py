"""The diagram's bands against the surfaces of single draws."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.diagram import _band, grid_values, knob_levels, reference
from probcomp.regime.knobs import KNOWN, Knob


def test_the_similar_boundary_is_where_neither_is_likelier(spin_glass):
    model, _ = spin_glass
    diagram = model.phase_diagram(size=12)
    median = diagram.similar[1]
    seen = np.flatnonzero(np.isfinite(median))
    assert len(seen) >= 2
    for k in seen:
        p = model.predict({"temperature": median[k]}, diagram.loads[k]).regime[0]
        # Of those connected, half are alike; the mean over draws is not the median draw.
        assert p[2] / (p[1] + p[2]) == pytest.approx(0.5, abs=0.15)


def test_the_similar_boundary_is_depth_zero_of_the_draws(spin_glass):
    from probcomp.regime.model import depth

    model, _ = spin_glass
    diagram = model.phase_diagram(size=12)
    theta = {n: np.median(v) for n, v in model.parameters.items() if v.ndim == 1}
    seen = np.flatnonzero(np.isfinite(diagram.similar[1]))
    x = model.coordinates.load(diagram.loads[seen])
    t = model.coordinates.settings(diagram.similar[1][seen][:, None])[:, 0]
    # The median of the draws' boundaries against the boundary of the median parameters.
    np.testing.assert_allclose(depth(theta, x, t), 0, atol=0.1)


def test_bands_leave_out_what_few_draws_have():
    values = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, 5.0]])
    band = _band(values)
    assert band[1, 0] == 2
    assert np.all(np.isnan(band[:, 1]))
    assert _band(values, least=0.0)[1, 1] == 5
    assert np.all(np.isnan(_band(np.full((3, 1), np.nan), least=0.0)))


def test_grids_follow_the_scale_of_the_knob():
    np.testing.assert_allclose(grid_values(1, 100, "log", 3), [1, 10, 100])
    np.testing.assert_allclose(grid_values(0, 1, "linear", 3), [0, 0.5, 1])


def test_the_reference_is_the_median_or_what_is_asked(spin_glass):
    model, _ = spin_glass
    assert reference(model, None)[0] == pytest.approx(np.median(model.table.settings))
    assert reference(model, {"temperature": 0.7})[0] == 0.7
    with pytest.raises(InputError, match="unknown knob"):
        reference(model, {"lr": 1.0})


def test_what_is_counted_has_whole_levels():
    epochs, batch = KNOWN["epochs"], Knob("bs", "down")
    assert knob_levels(epochs, np.array([10.0, 12, 13]), 9).tolist() == [10, 11, 12, 13]
    assert knob_levels(epochs, np.array([10.0, 12.5]), 3).tolist() == [10, 11.25, 12.5]
    runs = np.array([24.0, 100, 300, 24])
    assert knob_levels(batch, runs, 25).tolist() == [24, 32, 64, 100, 128, 256, 300]
    many = knob_levels(batch, np.arange(24.0, 301), 5)
    np.testing.assert_array_equal(many, [24, 45, 85, 160, 300])
    # A rate or a temperature is none, though its runs be whole.
    for knob in (KNOWN["temperature"], KNOWN["lr"]):
        assert len(knob_levels(knob, np.array([1.0, 2, 3]), 25)) == 25
    assert knob_levels(Knob("layers", "up", "linear"), np.array([1.0, 4]), 25).tolist() == [
        *(1, 2, 3, 4)
    ]
