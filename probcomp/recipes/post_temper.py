r"""Tempering: what a predicted nat is really worth, axis by axis.

The quadratic prediction takes rows as independent and the loss as quadratic; neither holds. So
removals are tried: one axis at a time loses units, its read-outs are adjusted, and the loss is
measured on samples that the adjustment did not see. Predictions :math:`q` and measurements
:math:`L` are joined by a power law

.. math:: \ln L = \alpha + \rho \ln q

(:math:`\rho = 1` until two sizes of removal have been tried). The temperature at ``q`` is ``q /
L``.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.evidence import Statistics
from probcomp.evidence.collect import batch_size
from probcomp.recipes.post_units import Judged, dense_refit, kept_columns
from probcomp.recipes.task import Task, Tensors

POWERS = (0.5, 2.0)
"""Range of the exponent: 1 is a quadratic loss, below it saturates."""
SMALLEST = 1e-9
"""Nats; a removal that measures less, or a gain, is read as this."""


@dataclass
class Tempering:
    """Predicted and measured loss increases of one axis, nats a unit of the loss."""

    predicted: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def add(self, predicted: float, measured: float) -> None:
        if predicted > 0:
            self.predicted.append(predicted)
            self.measured.append(max(measured, SMALLEST))

    @property
    def law(self) -> tuple[float, float]:
        """``alpha`` and ``rho`` through the last two points, or the last one."""
        if not self.predicted:
            return 0.0, 1.0
        q, found = (list(map(math.log, v)) for v in (self.predicted, self.measured))
        power = 1.0
        if len(q) > 1 and abs(q[-1] - q[-2]) > 0.2:
            power = min(max((found[-1] - found[-2]) / (q[-1] - q[-2]), POWERS[0]), POWERS[1])
        return found[-1] - power * q[-1], power

    def __call__(self, predicted: Tensor) -> Tensor:
        """The loss that is expected to be measured where ``predicted`` is predicted."""
        alpha, power = self.law
        return predicted.clamp_min(0).pow(power) * math.exp(alpha)

    def temperature(self, predicted: float) -> float:
        """``q / L`` at a predicted loss; 1 where nothing was tried."""
        if not self.predicted:
            return 1.0
        expected = float(self(torch.tensor(max(predicted, SMALLEST), dtype=torch.float64)))
        return max(predicted, SMALLEST) / max(expected, SMALLEST)


class Meter:
    """Measures the loss of the dense model with some read-outs replaced."""

    def __init__(self, model: nn.Module, task: Task, samples: Tensors, batch_size: int) -> None:
        self.model, self.task = copy.deepcopy(model).eval(), task
        self.batches = list(Batches(samples, batch_size, shuffle=False)(0))
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.dense = self.loss()

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss over the samples, nats a unit."""
        total = weight = 0.0
        for batch in self.batches:
            units = units_of(self.task, batch)
            total += float(self.task.loss(self.model, batch)) * units
            weight += units
        return total / weight

    @torch.no_grad()
    def increase(self, changes: Mapping[str, tuple[Any, Tensor, Tensor | None]]) -> float:
        """Loss increase with parameters replaced: name to (matrix view, new matrix, bias gain)."""
        old: dict[str, Tensor] = {}
        for name, (matrix, value, gain) in changes.items():
            weight = self.parameters[name]
            old[name] = weight.clone()
            weight.copy_(matrix.back(value, weight))
            if gain is not None:
                own = f"{name.rpartition('.')[0]}.bias"
                old[own] = self.parameters[own].clone()
                self.parameters[own].add_(gain.to(self.parameters[own]))
        try:
            return self.loss() - self.dense
        finally:
            for name, value in old.items():
                self.parameters[name].copy_(value)


def units_of(task: Task, batch: Any) -> int:
    """What a batch counts in the loss: its samples, or the tokens that are predicted."""
    labels = task.targets(batch)
    kind = task.likelihood
    if kind is not None and kind.unit == "token" and labels is not None:
        counted = labels[:, 1:] if getattr(kind, "shift", False) else labels
        return max(1, int((counted >= 0).sum()))
    return batch_size(batch)


def removal(
    model: nn.Module,
    judged: Judged,
    keep: Tensor,
    statistics: Mapping[str, Statistics],
    damping: float,
) -> dict[str, tuple[Any, Tensor, Tensor | None]]:
    """The replaced read-outs when one axis keeps the units ``keep``."""
    changes = {}
    for read in judged.reads:
        seen = statistics[read.parameter]
        columns = kept_columns(read, keep, len(seen.gram))
        new, gain = dense_refit(model, read, seen, columns, damping=damping)
        changes[read.parameter] = (read.matrix, new, gain)
    return changes


def slope(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Slope through zero of measured on predicted; 1 is calibrated."""
    bottom = sum(p * p for p in predicted)
    return sum(p * m for p, m in zip(predicted, measured)) / bottom if bottom > 0 else math.nan
