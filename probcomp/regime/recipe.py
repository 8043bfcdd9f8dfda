"""How a network is trained: every hyperparameter that may act as a temperature."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probcomp.errors import InputError, unknown

ROUNDING = 1e-9
"""Share by which a batch size may be off a whole number."""


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum and a step schedule.

    An epoch is as many steps as ``epoch_batch`` makes of the training set, whatever the batch
    size: runs that differ in batch size take equally many steps, so that batch size is a
    temperature and not a length of training.

    Attributes:
        epochs: Where training stops, at most ``horizon``; fewer is a checkpoint of the same run.
        horizon: Epochs over which the schedule is laid.
        lr: First learning rate; ``drops`` multiplies it at shares of the horizon.
        batch_size, momentum, weight_decay: As in torch; decay acts on all parameters.
        sam_rho: Radius of sharpness-aware minimisation (Foret et al. 2021, eq. 2-3); 0 is plain.
        dropout: Rate put into every dropout layer of the network; None leaves them alone.
        drops: ``(share of the horizon, factor)`` pairs.
        epoch_batch: Batch size that defines the epoch; ``batch_size`` where it is 0.
    """

    epochs: float = 60.0
    horizon: float = 60.0
    lr: float = 0.1
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 1e-4
    sam_rho: float = 0.0
    dropout: float | None = None
    drops: tuple[tuple[float, float], ...] = ((0.5, 0.1), (0.75, 0.1))
    epoch_batch: int = 0

    def __post_init__(self) -> None:
        wrong = []
        if not 0 <= self.epochs <= self.horizon:
            wrong.append(f"epochs {self.epochs:g} must lie in [0, horizon {self.horizon:g}]")
        if not (math.isfinite(self.lr) and self.lr > 0):
            wrong.append(f"lr {self.lr} must be positive")
        if self.batch_size < 1 or self.epoch_batch < 0:
            wrong.append(f"batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.momentum < 1:
            wrong.append(f"momentum {self.momentum} must lie in [0, 1)")
        if not (self.weight_decay >= 0 and self.sam_rho >= 0):
            wrong.append("weight_decay and sam_rho must not be negative")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            wrong.append(f"dropout {self.dropout} must lie in [0, 1)")
        if any(not (0 <= share <= 1 and factor > 0) for share, factor in self.drops):
            wrong.append(f"drops {self.drops} must be (share in [0, 1], factor > 0) pairs")
        if wrong:
            raise InputError("recipe: " + "; ".join(wrong))

    def steps(self, samples: int, epochs: float | None = None) -> int:
        """Optimiser steps of ``epochs`` (by default this recipe's) on that many samples."""
        per_epoch = max(1, samples // min(self.epoch_batch or self.batch_size, samples))
        return round((self.epochs if epochs is None else epochs) * per_epoch)

    def rate(self, share: float) -> float:
        """Learning rate at a share of the horizon."""
        return self.lr * math.prod(factor for start, factor in self.drops if share >= start)

    def turned(self, knob: str, value: float) -> "Recipe":
        """The recipe with one knob set.

        A batch size that is whole but for rounding, as of ``geomspace``, is that whole number.

        Raises:
            InputError: for a knob that is no field of a recipe, or a value out of its range.
        """
        if knob not in TURNABLE:
            raise unknown("recipe knob", knob, TURNABLE)
        if knob == "batch_size":
            if not (math.isfinite(value) and abs(value - round(value)) <= ROUNDING * abs(value)):
                raise InputError(f"recipe: batch_size {value:g} is no whole number")
            return dataclasses.replace(
                self, batch_size=round(value), epoch_batch=self.epoch_batch or self.batch_size
            )
        changed: dict[str, Any] = {knob: float(value)}
        return dataclasses.replace(self, **changed)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for files and hashes."""
        out = dataclasses.asdict(self)
        out["drops"] = [list(drop) for drop in self.drops]
        return out

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Recipe":
        """The recipe written by `to_json`."""
        drops = tuple((float(share), float(factor)) for share, factor in values["drops"])
        return Recipe(**{**values, "drops": drops})


TURNABLE = ("epochs", "lr", "batch_size", "momentum", "weight_decay", "sam_rho", "dropout")
