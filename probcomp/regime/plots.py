"""Pictures of a regime fit: phase diagram, actions along the knob, maps. Matplotlib figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.diagram import PhaseDiagram, grid_values, reference

if TYPE_CHECKING:
    from probcomp.regime.advice import Advice
    from probcomp.regime.fit import RegimeModel
    from probcomp.regime.table import RunTable

# Okabe and Ito (2008): apart under all common colour-vision deficiencies.
PHASES = {"I": "#D55E00", "II-A": "#E6C229", "II-B": "#0072B2"}
ACTION_COLOURS = {"raise": "#D55E00", "lower": "#0072B2", "keep": "#9AA3AD"}
INK = "#1c2430"
MAPS = {
    "connectivity": ("mode connectivity (0: no barrier)", "cividis"),
    "similarity": ("similarity of outputs (CKA)", "cividis"),
    "error": ("test error, %", "cividis_r"),
}


def plot_phase_diagram(
    diagram: PhaseDiagram,
    runs: "RunTable | None" = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Any:
    """Regime probabilities as mixed colours, both boundaries with 90 % bands, the triple point.

    Args:
        runs: Runs to mark, where the diagram is over their knob.
        marks: Name to (load, value of the knob) of up to three other places to mark.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    figure, axes = _axes(6.2, 4.4)
    colours = np.array([to_rgb(colour) for colour in PHASES.values()])
    mixed = 1 - 0.62 * (1 - diagram.probability @ colours)
    axes.pcolormesh(diagram.loads, diagram.values, mixed, shading="gouraud", rasterized=True)
    for band, style, name in (
        (diagram.boundary, "-", "I | II (connected)"),
        (diagram.similar, "--", "II-A | II-B (alike)"),
    ):
        low, middle, high = band
        axes.fill_between(diagram.loads, low, high, color=INK, alpha=0.16, linewidth=0)
        axes.plot(diagram.loads, middle, style, color=INK, linewidth=1.6, label=name)
    if np.isfinite(diagram.triple_value[1]):
        x, y = diagram.triple_load, diagram.triple_value
        axes.errorbar(
            x[1], y[1], xerr=[[x[1] - x[0]], [x[2] - x[1]]], yerr=_arms(y), fmt="o", color=INK,
            capsize=3, markersize=6, label="all three meet",
        )  # fmt: skip
    if runs is not None:
        position = runs.knob(diagram.knob)
        axes.plot(
            runs.load, runs.settings[:, position], "x", color=INK, markersize=5, alpha=0.7,
            label="runs", clip_on=False,
        )  # fmt: skip
    for (name, place), marker in zip((marks or {}).items(), "o*^"):
        axes.plot(
            *place, marker, color="white", markeredgecolor=INK, markersize=10, label=name,
            linestyle="none", clip_on=False,
        )  # fmt: skip
    _scales(axes, diagram.loads, diagram.values)
    axes.set_xlabel(diagram.load_name)
    axes.set_ylabel(diagram.knob)
    if runs is not None:
        axes.set_ylabel(f"{diagram.knob}  (hotter: {runs.knobs[runs.knob(diagram.knob)].hotter})")
    handles, labels = axes.get_legend_handles_labels()
    handles += [Patch(color=colour, alpha=0.62) for colour in PHASES.values()]
    labels += list(PHASES)
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def plot_actions(said: "Advice") -> Any:
    """P(raise), P(lower) and P(keep) along the knob, with the present setting marked.

    What is raised is the temperature, which longer training lowers.
    """
    figure, axes = _axes(6.2, 3.0)
    axes.stackplot(
        said.levels, *said.along.T, labels=["raise temperature", "lower temperature", "keep"],
        colors=list(ACTION_COLOURS.values()), alpha=0.75,
    )  # fmt: skip
    axes.axvline(said.at[said.knob], color=INK, linewidth=1.4)
    axes.annotate(
        "present", (said.at[said.knob], 1.02), ha="center", fontsize=8, color=INK,
        annotation_clip=False,
    )  # fmt: skip
    axes.axvline(said.best, color=INK, linewidth=1.2, linestyle=":")
    if not np.isclose(said.best, said.at[said.knob]):
        axes.annotate(
            "best", (said.best, 1.02), ha="center", fontsize=8, color=INK, annotation_clip=False
        )
    if _spread(said.levels) > 20:
        axes.set_xscale("log")
    axes.set_xlim(said.levels.min(), said.levels.max())
    axes.set_ylim(0, 1)
    knob = said.model.table.knobs[said.model.table.knob(said.knob)]
    hotter = "right" if knob.hotter == "up" else "left"
    axes.set_xlabel(f"{said.knob}, at {said.load_name} {said.load:g}  (hotter: to the {hotter})")
    axes.set_ylabel("probability")
    figure.legend(loc="outside right center", fontsize=8, frameon=False, reverse=True)
    return figure


@dataclass(frozen=True)
class Maps:
    """Predictions on a grid of one knob by the load, in the units of `MAPS`, [values, loads]."""

    model: "RegimeModel"
    position: int
    values: Any
    loads: Any
    shades: dict[str, Any]


def predict_maps(
    model: "RegimeModel",
    knob: str | None = None,
    *,
    at: Mapping[str, float] | None = None,
    size: int = 22,
) -> Maps:
    """Posterior means of connectivity, similarity and error over one knob and the load."""
    table = model.table
    position = table.knob(knob)
    chosen, co = table.knobs[position], model.coordinates
    values = grid_values(co.low[position], co.high[position], chosen.scale, size)
    loads = np.geomspace(table.load.min(), table.load.max(), size)
    settings = np.tile(reference(model, at), (size * size, 1))
    settings[:, position] = np.repeat(values, size)
    predicted = model.predict(settings, np.tile(loads, size))
    shades = {
        "connectivity": predicted.connectivity,
        "similarity": predicted.similarity,
        "error": 100 * predicted.error.mean(0),
    }
    shaped = {name: shade.reshape(size, size) for name, shade in shades.items()}
    return Maps(model, position, values, loads, shaped)


def plot_map(maps: Maps, what: str) -> Any:
    """Map of ``connectivity``, ``similarity`` or ``error``; the runs on top.

    A run is a disc in the colour of what was measured: where it disappears the fit is good.
    """
    if what not in MAPS:
        raise InputError(f"no map of {what!r}; there are: {', '.join(MAPS)}.")
    table, shade = maps.model.table, maps.shades[what]
    every = 100 * table.error if what == "error" else getattr(table, what)
    # Repeated runs share a place: their mean is shown.
    first = np.unique(table.cells, return_index=True)[1]
    measured = np.bincount(table.cells, every) / np.bincount(table.cells)
    title, colours = MAPS[what]
    low, high = min(shade.min(), measured.min()), max(shade.max(), measured.max())
    figure, axes = _axes(5.4, 3.8)
    mesh = axes.pcolormesh(
        maps.loads, maps.values, shade, cmap=colours, vmin=low, vmax=high, shading="gouraud",
        rasterized=True,
    )  # fmt: skip
    axes.scatter(
        table.load[first], table.settings[first, maps.position], c=measured, cmap=colours, vmin=low,
        vmax=high, edgecolors="white", linewidths=0.8, s=42, zorder=3, clip_on=False,
    )  # fmt: skip
    figure.colorbar(mesh, ax=axes, label=title)
    _scales(axes, maps.loads, maps.values)
    axes.set_xlabel(table.load_name)
    axes.set_ylabel(table.knobs[maps.position].name)
    return figure


def pictures(said: "Advice") -> dict[str, Any]:
    """Title to figure: all that a page about one piece of advice shows."""
    diagram = said.model.phase_diagram(said.knob, at=said.at)
    predicted = predict_maps(said.model, said.knob, at=said.at)
    maps = {f"Map of {what}": plot_map(predicted, what) for what in MAPS}
    marks = {"now": (said.load, said.at[said.knob]), "best": (said.load, said.best)}
    if said.next is not None:
        marks["next pilot"] = (said.next.load, said.next.settings[said.knob])
    return {
        "Phase diagram": plot_phase_diagram(diagram, said.model.table, marks),
        "What to do, along the knob": plot_actions(said),
        **maps,
    }


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _scales(axes: Any, loads: Any, values: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis, scale, data in (
        (axes.xaxis, axes.set_xscale, loads),
        (axes.yaxis, axes.set_yscale, values),
    ):
        if _spread(data) > 3 and (axis is axes.xaxis or _is_log(data)):
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(loads.min(), loads.max())
    axes.set_ylim(values.min(), values.max())


def _is_log(values: Any) -> bool:
    return bool(np.ptp(np.diff(np.log(values))) < 1e-6)


def _spread(values: Any) -> float:
    return float(values.max() / values.min()) if values.min() > 0 else 1.0


def _arms(quantiles: Any) -> list[list[float]]:
    return [[quantiles[1] - quantiles[0]], [quantiles[2] - quantiles[1]]]
