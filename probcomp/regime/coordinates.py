"""From settings, loads and observables to the standardised coordinates the model works in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from probcomp.errors import InputError
from probcomp.regime.knobs import Array, Knob
from probcomp.regime.table import RunTable

SPAN = 1.5
"""Load and temperature of the pilots run from -SPAN to SPAN, about a unit variance."""

BARRIER_FLOOR = 0.004
"""Twice the standard error of a barrier (a share of the train set), where none is given."""

ERROR_FLOOR = 1e-4
DISSIMILARITY_FLOOR = 1e-4

CHANNELS = ("error", "barrier", "dissimilarity")


@dataclass(frozen=True)
class Coordinates:
    """The map from a run to ``x`` (load), ``c`` (one coordinate a knob) and ``z`` (observables).

    ``x = SPAN (ln load - mid) / half``. ``c_k`` is the knob's coordinate, likewise centred; the
    knobs whose exponent physics fixes share one half-width, so that their weights are near one.
    ``z = (ln(error + e_0), ln((b + e_1) / (1 - b)), ln((1 - CKA + e_2) / (CKA + e_2)))``,
    standardised; b is the barrier and e two standard errors of the measurement: below that a
    logarithm would only spread out noise. A plain ``ln(1 - CKA)`` hardly moves where outputs begin
    to be alike, so that the boundary there would be put too far in.
    """

    knobs: tuple[Knob, ...]
    low: Array
    high: Array
    half: Array
    load_mid: float
    load_half: float
    z_mean: Array
    z_scale: Array
    floors: Array

    @staticmethod
    def of(table: RunTable, floor: float = BARRIER_FLOOR) -> "Coordinates":
        """Coordinates that put the runs of a table on the unit scale.

        ``floor`` is about twice the standard error of a barrier; a table's own is used if larger.
        """
        if not 0 < floor < 0.5:
            raise InputError(f"barrier floor is {floor}; it must lie in (0, 0.5).")
        floors = np.maximum(2 * _typical(table.measured), [0.0, floor, 0.0])
        raw = np.column_stack(
            [k.coordinate(v, _START_WARP) for k, v in zip(table.knobs, table.settings.T)]
        )
        low, high = table.settings.min(0), table.settings.max(0)
        half = np.ptp(raw, axis=0) / 2
        physical = np.array([knob.physical for knob in table.knobs])
        if physical.any():
            half[physical] = np.ptp(raw[:, physical].sum(1)) / 2 or half[physical].max()
        log_load = np.log(table.load)
        z = _transform(table, floors)
        return Coordinates(
            table.knobs,
            low,
            high,
            half,
            float(log_load.max() + log_load.min()) / 2,
            float(np.ptp(log_load)) / 2,
            z.mean(0),
            np.maximum(z.std(0), 0.05),
            floors,
        )

    def load(self, load: ArrayLike) -> Array:
        """x of loads."""
        return SPAN * (np.log(np.asarray(load, float)) - self.load_mid) / self.load_half

    def settings(self, settings: ArrayLike) -> Array:
        """c of settings, [rows, knobs]; schedule knobs at ``warp`` one half (see `warped`)."""
        settings = np.asarray(settings, float)
        if settings.ndim != 2 or settings.shape[1] != len(self.knobs):
            names = ", ".join(knob.name for knob in self.knobs)
            raise InputError(f"settings have shape {settings.shape}; expected [rows, ({names})].")
        columns = []
        for k, knob in enumerate(self.knobs):
            knob.check(settings[:, k])
            ends = knob.coordinate([self.low[k], self.high[k]], _START_WARP)
            value = knob.coordinate(settings[:, k], _START_WARP)
            columns.append(SPAN * (value - ends.mean()) / self.half[k])
        return np.column_stack(columns)

    def observables(self, table: RunTable) -> Array:
        """z of a table, [rows, 3]."""
        return (_transform(table, self.floors) - self.z_mean) / self.z_scale

    def measured(self, table: RunTable) -> Array:
        """Standard errors of z that the measurement alone would give, [rows, 3] (delta method)."""
        se = table.measured.copy()
        se[:, 1] = np.where(se[:, 1] > 0, se[:, 1], self.floors[1] / 2)
        unlike, alike = _shares(table.similarity, self.floors[2])
        size = np.column_stack(
            [
                np.maximum(table.error, ERROR_FLOOR) + self.floors[0],
                np.maximum(-table.connectivity, 0.0) + self.floors[1],
                unlike * alike / (unlike + alike),
            ]
        )
        return se / size / self.z_scale

    def error(self, z: Any) -> Any:
        """Test error (fraction) of the first channel."""
        return np.clip(np.exp(self.z_mean[0] + self.z_scale[0] * z) - self.floors[0], 0.0, 1.0)

    def barrier(self, z: Any) -> Any:
        """Connectivity (<= 0, fraction) of the second channel."""
        ratio = np.exp(self.z_mean[1] + self.z_scale[1] * z)
        return np.minimum(-(ratio - self.floors[1]) / (1 + ratio), 0.0)

    def similarity(self, z: Any) -> Any:
        """CKA of the third channel."""
        ratio = np.exp(self.z_mean[2] + self.z_scale[2] * z)
        return np.clip((1 + self.floors[2] * (1 - ratio)) / (1 + ratio), 0.0, 1.0)

    @property
    def censor(self) -> float:
        """The standardised barrier channel at no barrier; runs there are left-censored."""
        return float((np.log(self.floors[1]) - self.z_mean[1]) / self.z_scale[1])


_START_WARP = 0.5


def warp(c: Any, ratio: Any, power: Any, xp: Any = np) -> Any:
    """Bend the coordinate of a schedule knob between its log (0) and linear (1) scale.

    ``c`` in [-SPAN, SPAN] is the coordinate at Box-Cox power one half, ``ratio`` the largest over
    the smallest value of the pilots (values are measured in the smallest). The ends stay fixed.
    """
    root = xp.sqrt(ratio)
    # c falls with the value (more epochs are colder), linearly in its square root.
    position = xp.clip((SPAN - c) / (2 * SPAN), -0.5, 2.0)
    value = xp.maximum(1 + position * (root - 1), 0.1) ** 2
    power = xp.maximum(power, 1e-3)
    share = (value**power - 1) / (ratio**power - 1)
    return SPAN * (1 - 2 * share)


def _typical(measured: Array) -> Array:
    """Median of the standard errors that are stated, [3]; zero in a column that states none."""
    return np.array([np.median(v[v > 0]) if np.any(v > 0) else 0.0 for v in measured.T])


def _shares(similarity: Array, floor: float) -> tuple[Array, Array]:
    """1 - CKA and CKA, each above zero by ``floor``, and by DISSIMILARITY_FLOOR at least."""
    unlike = np.maximum(1 - similarity, DISSIMILARITY_FLOOR) + floor
    return unlike, np.maximum(similarity, DISSIMILARITY_FLOOR) + floor


def _transform(table: RunTable, floors: Array) -> Array:
    barrier = np.clip(-table.connectivity, 0.0, 0.999)
    unlike, alike = _shares(table.similarity, floors[2])
    return np.column_stack(
        [
            np.log(np.maximum(table.error, ERROR_FLOOR) + floors[0]),
            np.log((barrier + floors[1]) / (1 - barrier)),
            np.log(unlike / alike),
        ]
    )
