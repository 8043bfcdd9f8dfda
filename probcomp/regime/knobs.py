"""What turns the temperature of training, and which way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probcomp.errors import InputError, unknown

Array = NDArray[np.float64]
SCALES = ("log", "linear", "log1m", "schedule")


@dataclass(frozen=True)
class Knob:
    """A training hyperparameter that acts as a temperature.

    Attributes:
        name: Its column in a run table.
        hotter: ``"up"`` if a larger value is hotter, ``"down"`` if a smaller one is.
        scale: ``"log"``, ``"linear"``, ``"log1m"`` (log of one minus the value, for momentum) or
            ``"schedule"``: epochs before an early stop, whose effect follows the learning-rate
            schedule, so that the model learns a monotone warp between the log and linear scales.
        physical: True where stationary SGD fixes the exponent, ``ln T = ln lr - ln batch
            - ln(1 - momentum) + const``; the model then expects a weight near one.
    """

    name: str
    hotter: str
    scale: str = "log"
    physical: bool = False

    def __post_init__(self) -> None:
        if self.hotter not in ("up", "down"):
            raise InputError(f"knob {self.name!r}: hotter is {self.hotter!r}; say 'up' or 'down'.")
        if self.scale not in SCALES:
            raise unknown("knob scale", self.scale, SCALES)

    def coordinate(self, values: ArrayLike, warp: float = 1.0) -> Array:
        """The value on its scale, with the sign that makes larger hotter.

        ``warp`` is used by the schedule scale only: 0 for log, 1 for linear, between them the
        Box-Cox power.
        """
        v = np.asarray(values, float)
        if self.scale == "log" or (self.scale == "schedule" and warp == 0):
            out = np.log(v)
        elif self.scale == "log1m":
            out = np.log1p(-v)
        elif self.scale == "linear":
            out = v
        else:
            out = (v**warp - 1) / warp
        sign = 1.0 if self.hotter == "up" else -1.0
        # log(1 - v) falls as v grows.
        return sign * (-out if self.scale == "log1m" else out)

    def check(self, values: Array) -> None:
        """Refuse values the scale has no place for."""
        if self.scale in ("log", "schedule") and not np.all(values > 0):
            raise InputError(f"knob {self.name!r} has a value <= 0; its scale is a logarithm.")
        if self.scale == "log1m" and not np.all((values >= 0) & (values < 1)):
            raise InputError(f"knob {self.name!r} must lie in [0, 1).")


KNOWN = {
    knob.name: knob
    for knob in (
        Knob("temperature", "up"),
        Knob("lr", "up", physical=True),
        Knob("batch_size", "down", physical=True),
        Knob("momentum", "up", "log1m", physical=True),
        Knob("epochs", "down", "schedule"),
        Knob("weight_decay", "up"),
        Knob("sam_rho", "up", "linear"),
        Knob("dropout", "up", "linear"),
    )
}

ALIASES = {
    "train_epochs": "epochs",
    "epoch": "epochs",
    "bs": "batch_size",
    "batch": "batch_size",
    "learning_rate": "lr",
    "wd": "weight_decay",
    "rho_sam": "sam_rho",
    "t": "temperature",
}


def folded(column: str) -> str:
    """A column's name without what spellings differ in: ``Batch Size`` is ``batch_size``."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def known_name(column: str) -> str:
    """The knob's own name for a column that may use another spelling."""
    return ALIASES.get(folded(column), folded(column))


def parse_knob(knob: "str | Knob", columns: Sequence[str]) -> Knob:
    """A knob from ``"name"`` or ``"name:up"`` (a larger value is hotter) or ``"name:down"``.

    Raises:
        InputError: for a knob of unknown direction, or a direction that contradicts a known one.
    """
    if isinstance(knob, Knob):
        name, hotter, own = knob.name, knob.hotter, knob
    else:
        name, colon, hotter = knob.partition(":")
        hotter, own = hotter.strip().lower(), None
        if colon and hotter not in ("up", "down"):
            raise InputError(
                f"knob {knob!r}: write {name}:up if a larger value is hotter, {name}:down if a "
                "smaller one is."
            )
    if name not in columns:
        raise unknown("knob column", name, columns)
    known = KNOWN.get(known_name(name))
    if known is None:
        if not hotter:
            raise InputError(
                f"knob {name!r}: which way is hotter? Write {name}:up if a larger value adds "
                f"noise to training, {name}:down if it takes some away. "
                f"Known without saying: {', '.join(sorted(KNOWN))}."
            )
        return own or Knob(name, hotter, "linear")
    if hotter and hotter != known.hotter:
        raise InputError(
            f"knob {name!r} is labelled hotter {hotter}, but a larger {known.name} is "
            f"{'hotter' if known.hotter == 'up' else 'colder'}: the direction is {known.hotter!r}."
        )
    return own or Knob(name, known.hotter, known.scale, known.physical)
