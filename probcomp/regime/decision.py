"""Raise, lower or keep: the decision a posterior over errors supports, or none."""

from dataclasses import dataclass

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.knobs import Array

ACTIONS = ("raise", "lower", "keep")
GAIN = 0.003
"""Least gain in test error (fraction: 0.3 points) that is worth a move."""


@dataclass(frozen=True)
class Decision:
    """What to do with the temperature at one setting.

    Attributes:
        probability: Of raise, lower and keep (temperature, not the knob's value).
        best: Knob value with the lowest expected error.
        interval: 90 % interval of the best value over the draws.
        gain: Expected fall in test error from moving to ``best`` (fraction, >= 0 in expectation).
        gain_interval: Its 90 % interval.
    """

    probability: Array
    best: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]

    @property
    def likeliest(self) -> str:
        """The most probable action, however weak."""
        return ACTIONS[int(np.argmax(self.probability))]

    def action(self, confidence: float = 0.8) -> str:
        """The most probable action if its probability reaches ``confidence``, else undecided."""
        return self.likeliest if self.probability.max() >= confidence else "undecided"


def best_actions(errors: Array, heat: Array, at: int, gain: float = GAIN) -> Array:
    """Index into `ACTIONS` for each draw, [draws].

    With ``E_s`` the error of draw s on the levels of the knob, ``G_up = E_s(now) - min over
    hotter levels E_s``, ``G_down`` likewise: keep if both are below ``gain``, else the larger.

    Args:
        errors: [draws, levels], fractions.
        heat: Temperature coordinate of the levels, [levels], any monotone scale.
        at: Index of the present level.
    """
    if errors.ndim != 2 or errors.shape[1] != len(heat) or not 0 <= at < len(heat):
        raise InputError(f"errors {errors.shape}, {len(heat)} levels, present level {at}.")
    now = errors[:, at]
    none = np.full((len(errors), 1), np.inf)
    hotter = np.concatenate([errors[:, heat > heat[at]], none], 1).min(1)
    colder = np.concatenate([errors[:, heat < heat[at]], none], 1).min(1)
    up, down = now - hotter, now - colder
    return np.where(np.maximum(up, down) < gain, 2, np.where(up >= down, 0, 1))


def decide(errors: Array, values: Array, heat: Array, at: int, gain: float = GAIN) -> Decision:
    """The decision at level ``at`` of a knob with ``values``; arguments as in `best_actions`."""
    actions = best_actions(errors, heat, at, gain)
    probability = np.bincount(actions, minlength=3) / len(actions)
    best = int(np.argmin(errors.mean(0)))
    per_draw = values[np.argmin(errors, axis=1)]
    gains = errors[:, at] - errors[:, best]
    low, high = np.quantile(per_draw, [0.05, 0.95])
    gain_low, gain_high = np.quantile(gains, [0.05, 0.95])
    return Decision(
        probability,
        float(values[best]),
        (float(low), float(high)),
        float(gains.mean()),
        (float(gain_low), float(gain_high)),
    )
