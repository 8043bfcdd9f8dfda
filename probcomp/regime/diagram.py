"""The phase diagram: regime probabilities over load and knob, and the band of the boundary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probcomp.errors import unknown
from probcomp.regime.coordinates import SPAN
from probcomp.regime.knobs import KNOWN, Array, Knob, known_name

if TYPE_CHECKING:
    from probcomp.regime.fit import RegimeModel

LEVELS = (0.05, 0.5, 0.95)
BAND_DRAWS = 500

COUNTS = ("epochs", "batch_size")
"""Known knobs that are whole numbers; another one is where its runs are."""


@dataclass(frozen=True)
class PhaseDiagram:
    """Posterior over a grid of one knob and the load.

    Attributes:
        knob: Name of the knob; load_name: name of the load.
        values: The knob's values, [values]; loads: [loads].
        probability: Of I, II-A and II-B, [values, loads, 3].
        error: Posterior mean of the test error (fraction) by the regimes alone, without the
            processes and what the seeds of the runs have in common; of the same mean over seeds
            as `Prediction.error`, [values, loads].
        boundary: 5, 50 and 95 % quantiles of the knob's value where the runs become connected
            (p_I = 1/2), [3, loads]; NaN where fewer than half of the draws have such a value.
        similar: The same quantiles where the outputs become similar (II-A | II-B), at loads above
            the triple point, [3, loads].
        triple_load, triple_value: The same quantiles of the point where the three regimes meet.
    """

    knob: str
    load_name: str
    values: Array
    loads: Array
    probability: Array
    error: Array
    boundary: Array
    similar: Array
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


def knob_levels(knob: Knob, runs: Array, size: int) -> Array:
    """Values that a knob can be set to, from the least to the largest run, ascending.

    ``size`` of them, evenly spaced on its scale; of what is counted, the whole numbers next to
    them, and of batch sizes those of the runs and the powers of two between.
    """
    low, high = float(runs.min()), float(runs.max())
    values = grid_values(low, high, knob.scale, size)
    name = known_name(knob.name)
    if (name in KNOWN and name not in COUNTS) or np.any(runs != np.rint(runs)):
        return values
    if name == "batch_size":
        powers = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
        tried = np.unique(np.concatenate([runs, powers]))
        if len(tried) <= 2 * size:
            return tried
    return np.unique(np.rint(values))


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
    from probcomp.regime.model import BEND

    position = model.table.knob(knob)
    chosen = model.table.knobs[position]
    co = model.coordinates
    values = grid_values(co.low[position], co.high[position], chosen.scale, size)
    loads = np.geomspace(model.table.load.min(), model.table.load.max(), size)
    settings = np.tile(reference(model, at), (size * size, 1))
    settings[:, position] = np.repeat(values, size)
    columns = np.tile(loads, size)
    # A band needs no more draws than this, and each one is interpolated at each load.
    surfaces = model.surfaces(co.load(columns), co.settings(settings), BAND_DRAWS)
    some = model.thinned(BAND_DRAWS)
    expected = surfaces["mean"][:, :, 0] + model.mean_over_seeds(some, len(some), co.load(columns))
    error = co.error(expected).mean(0).reshape(size, size)
    p = surfaces["p"].reshape(-1, size, size, 3)
    heat = surfaces["t"].reshape(-1, size, size)[:, :, 0]
    order = 1 if heat.mean(0)[-1] > heat.mean(0)[0] else -1
    hot_values = values[::order]
    x0, t0, kappa = (model.parameters[name][some] for name in ("x0", "t0", "kappa"))
    x = co.load(loads)

    def at_heat(draw: int, levels: Array) -> Array:
        return np.interp(levels, heat[draw, ::order], hot_values, left=np.nan, right=np.nan)

    triple = np.array([at_heat(s, t0[s : s + 1])[0] for s in range(len(heat))])
    # Depth zero, solved for t (`probcomp.regime.model.depth`).
    ratio = np.log(2) + (BEND / kappa)[:, None] * np.maximum(x - x0[:, None], 0.0)
    hottest = t0[:, None] + (ratio + np.log(-np.expm1(-ratio))) / BEND
    similar = np.array(
        [np.where(x > x0[s], at_heat(s, hottest[s]), np.nan) for s in range(len(heat))]
    )
    crossing = np.full((len(heat), size), np.nan)
    cold = p[:, ::order, :, 0]  # p_I falls with heat
    for s in range(len(heat)):
        for j in range(size):
            column = cold[s, :, j]
            if column[0] > 0.5 > column[-1]:
                crossing[s, j] = np.interp(-0.5, -column, hot_values)
    return PhaseDiagram(
        chosen.name,
        model.table.load_name,
        values,
        loads,
        surfaces["p"].mean(0).reshape(size, size, 3),
        error,
        _band(crossing),
        _band(similar),
        np.quantile(np.exp(co.load_mid + co.load_half * x0 / SPAN), LEVELS),
        _band(triple[:, None], least=0.0)[:, 0],
    )


def _band(values: Array, least: float = 0.5) -> Array:
    """Quantiles over draws [draws, k] of each column that more than ``least`` of them have."""
    out = np.full((3, values.shape[1]), np.nan)
    share = np.isfinite(values).mean(0)
    enough = (share >= least) & (share > 0)
    out[:, enough] = np.nanquantile(values[:, enough], LEVELS, axis=0)
    return out
