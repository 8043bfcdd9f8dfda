"""What simpler advisers say to the same question, printed next to the advice."""

from dataclasses import dataclass

import numpy as np

from probcomp.regime.baselines import QuadraticBaseline, called
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.decision import ACTIONS, decide
from probcomp.regime.fit import RegimeModel
from probcomp.regime.knobs import Array
from probcomp.regime.table import RunTable

DRAWS = 2000

MEASURED = {
    "regime model": 0.80,
    "Gaussian process": 0.78,
    "quadratic": 0.78,
    "rule by hand": 0.72,
    "coldest": 0.36,
}
"""Share of the 72 settings of the published grid of Zhou et al. 2023 (ICML) whose action was called
rightly: the first three from nine of its runs (mean of 20 designs), the rule by hand from all of
them. ``benchmarks/regime.py designs`` measures it; a test compares."""


@dataclass(frozen=True)
class Opinion:
    """What one of them says.

    Attributes:
        action: ``raise``, ``lower`` or ``keep`` the temperature, the likeliest of them.
        probability: Its probability where the adviser has one, else None.
        basis: What it goes by, where that is not the whole table.
    """

    action: str
    probability: float | None = None
    basis: str = ""

    def __str__(self) -> str:
        share = "" if self.probability is None else f" {self.probability:.0%}"
        return f"{self.action}{share}" + (f" ({self.basis})" if self.basis else "")


def opinions(
    model: RegimeModel, position: int, settings: Array, here: int, load: float, gain: float
) -> dict[str, Opinion]:
    """What each says of level ``here`` of the knob at ``position``, at ``load``.

    Args:
        settings: Levels of the knob, all else as at present, [levels, knobs].
    """
    table, knob = model.table, model.table.knobs[position]
    values = settings[:, position]
    heat = knob.coordinate(values)
    loads = np.full(len(values), load)
    drawn = {"quadratic": QuadraticBaseline.fit(table).errors(settings, loads, DRAWS, model.seed)}
    if model.process is not None:
        drawn["Gaussian process"] = model.by_process(settings, load, DRAWS)
    out = {}
    for name in sorted(drawn):
        said = decide(drawn[name], values, heat, here, gain)
        out[name] = Opinion(said.likeliest, float(said.probability.max()))
    out["rule by hand"] = by_hand(table, model.coordinates, settings[here], load)
    # The coldest of the runs, as one who always trains to the end would have it.
    of_runs = knob.coordinate(table.settings[:, position])
    out["coldest"] = Opinion("lower" if heat[here] > of_runs.min() + 1e-9 else "keep")
    return out


def by_hand(table: RunTable, coordinates: Coordinates, setting: Array, load: float) -> Opinion:
    """The rule of `baselines.connectivity_rule`, on means over repeated runs.

    The rule reads the run at the present setting; where there is none, the nearest one.
    """
    count = np.bincount(table.cells)
    first = np.unique(table.cells, return_index=True)[1]
    connected, unlike = (
        np.bincount(table.cells, v) / count for v in (table.connectivity, 1 - table.similarity)
    )
    x, c = coordinates.load(table.load[first]), coordinates.settings(table.settings[first])
    far = (x - coordinates.load(load)) ** 2
    far = far + ((c - coordinates.settings(setting[None])) ** 2).sum(1)
    nearest = int(np.argmin(far))
    column = table.load[first] == table.load[first[nearest]]
    least = float(unlike[column].min())
    action = ACTIONS[called(float(connected[nearest]), float(unlike[nearest]), least)]
    run = ", ".join(
        f"{knob.name} {value:g}" for knob, value in zip(table.knobs, table.settings[first[nearest]])
    )
    where = f"{run}, {table.load_name} {table.load[first[nearest]]:g}"
    return Opinion(action, basis="" if far[nearest] < 1e-12 else f"of the run at {where}")


def measured() -> str:
    """How often each was right where that was measured, in one line."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in MEASURED.items())
    return f"right on a published grid, from nine runs (rule: all runs): {shares}"
