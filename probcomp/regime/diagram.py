"""The phase diagram: regime probabilities over load and knob, and the band of the boundary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probcomp.errors import unknown
from probcomp.regime.knobs import Array

if TYPE_CHECKING:
    from probcomp.regime.fit import RegimeModel


@dataclass(frozen=True)
class PhaseDiagram:
    """Posterior over a grid of one knob and the load.

    Attributes:
        knob: Name of the knob; load_name: name of the load.
        values: The knob's values, [values]; loads: [loads].
        probability: Of I, II-A and II-B, [values, loads, 3].
        error: Posterior mean of the test error (fraction), [values, loads].
        boundary: 5, 50 and 95 % quantiles of the knob's value where the runs become connected
            (p_I = 1/2), [3, loads]; NaN where fewer than half of the draws have such a value.
        triple_load, triple_value: The same quantiles of the point where the three regimes meet.
    """

    knob: str
    load_name: str
    values: Array
    loads: Array
    probability: Array
    error: Array
    boundary: Array
    triple_load: Array
    triple_value: Array

    @property
    def regime(self) -> Array:
        """Index of the most probable regime, [values, loads]."""
        return self.probability.argmax(-1)


def grid_values(low: float, high: float, scale: str, size: int) -> Array:
    """Evenly spaced values on a knob's scale; schedules and rates in [0, 1) are spaced linearly."""
    if scale == "log":
        return np.geomspace(low, high, size)
    return np.linspace(low, high, size)


def reference(model: "RegimeModel", at: Mapping[str, float] | None) -> Array:
    """One setting [knobs]: the median of each knob over the runs, replaced by ``at``."""
    setting = np.median(model.table.settings, axis=0)
    names = [knob.name for knob in model.table.knobs]
    for name, value in (at or {}).items():
        if name not in names:
            raise unknown("knob", name, names)
        setting[names.index(name)] = value
    return setting


def phase_diagram(
    model: "RegimeModel",
    knob: str | None = None,
    *,
    at: Mapping[str, float] | None = None,
    size: int = 30,
) -> PhaseDiagram:
    """See `RegimeModel.phase_diagram`."""
    position = model.table.knob(knob)
    chosen = model.table.knobs[position]
    co = model.coordinates
    values = grid_values(co.low[position], co.high[position], chosen.scale, size)
    loads = np.geomspace(model.table.load.min(), model.table.load.max(), size)
    settings = np.tile(reference(model, at), (size * size, 1))
    settings[:, position] = np.repeat(values, size)
    columns = np.tile(loads, size)
    surfaces = model.surfaces(co.load(columns), co.settings(settings))
    p = surfaces["p"].reshape(-1, size, size, 3)
    error = co.error(surfaces["mean"][:, :, 0]).mean(0).reshape(size, size)
    heat = surfaces["t"].reshape(-1, size, size)[:, :, 0]
    order = 1 if heat.mean(0)[-1] > heat.mean(0)[0] else -1
    hot_values = values[::order]

    def at_heat(draw: int, level: float) -> float:
        row = heat[draw, ::order]
        return float(np.interp(level, row, hot_values, left=np.nan, right=np.nan))

    parameters = model.parameters
    triple = [at_heat(s, parameters["t0"][s]) for s in range(len(heat))]
    triple_load = np.exp(co.load_mid + co.load_half * parameters["x0"] / 1.5)
    crossing = np.full((len(heat), size), np.nan)
    cold = p[:, ::order, :, 0]  # p_I falls with heat
    for s in range(len(heat)):
        for j in range(size):
            column = cold[s, :, j]
            if column[0] > 0.5 > column[-1]:
                crossing[s, j] = np.interp(-0.5, -column, hot_values)
    levels = [0.05, 0.5, 0.95]
    enough = np.isfinite(crossing).mean(0) >= 0.5
    boundary = np.full((3, size), np.nan)
    boundary[:, enough] = np.nanquantile(crossing[:, enough], levels, axis=0)
    inside = np.array(triple)[np.isfinite(triple)]
    triple_value = np.quantile(inside, levels) if len(inside) else np.full(3, np.nan)
    return PhaseDiagram(
        chosen.name,
        model.table.load_name,
        values,
        loads,
        p.mean(0),
        error,
        boundary,
        np.quantile(triple_load, levels),
        triple_value,
    )
