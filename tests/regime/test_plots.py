"""Pictures: what is drawn, without looking at pixels."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import advise
from probcomp.regime.plots import MAPS, plot_actions, plot_map, plot_phase_diagram, predict_maps


def test_the_diagram_shows_boundaries_their_bands_and_the_runs(spin_glass):
    model, _ = spin_glass
    diagram = model.phase_diagram(size=8)
    axes = plot_phase_diagram(diagram, model.table).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["I | II (connected)", "II-A | II-B (alike)", "runs", "all three meet"]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["runs"][:, 0], model.table.load)
    np.testing.assert_allclose(drawn["I | II (connected)"][:, 1], diagram.boundary[1])


def test_the_present_setting_and_the_way_of_heat_are_shown(spin_glass):
    model, _ = spin_glass
    marks = {"now": (2.0, 1.5), "best": (2.0, 0.6)}
    axes = plot_phase_diagram(model.phase_diagram(size=8), model.table, marks).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["now"], [[2.0, 1.5]])
    np.testing.assert_allclose(drawn["best"], [[2.0, 0.6]])
    assert axes.get_ylabel() == "temperature  (hotter: up)"
    strip = plot_actions(advise(model, density=1.0, levels=[0.6, 1.0, 2.0])).axes[0]
    assert strip.get_xlabel().endswith("(hotter: to the right)")


def test_shares_of_the_actions_fill_the_strip(spin_glass):
    said = advise(spin_glass[0], density=1.0, levels=[0.6, 1.0, 2.0])
    axes = plot_actions(said).axes[0]
    assert len(axes.collections) == 3
    labels = [area.get_label() for area in axes.collections]
    assert labels == ["raise temperature", "lower temperature", "keep"]
    np.testing.assert_allclose(
        axes.collections[0].get_paths()[0].vertices[:, 1].max(), said.along[:, 0].max()
    )
    top = axes.collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(1)


def test_maps_are_the_predictions(spin_glass):
    model, _ = spin_glass
    maps = predict_maps(model, size=5)
    predicted = model.predict(
        {"temperature": np.repeat(maps.values, 5)}, np.tile(maps.loads, 5)
    ).similarity
    np.testing.assert_allclose(maps.shades["similarity"].ravel(), predicted)
    for what in MAPS:
        figure = plot_map(maps, what)
        assert len(figure.axes) == 2  # the map and its scale
    with pytest.raises(InputError, match="no map"):
        plot_map(maps, "mood")
