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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence import Statistics
from probcomp.evidence.collect import batch_size
from probcomp.evidence.fisher import Likelihood
from probcomp.evidence.prefix import BiasPlace
from probcomp.recipes.post_units import Judged, dense_refit, kept_columns
from probcomp.recipes.task import Task

POWERS = (0.5, 2.0)
"""Range of the exponent: 1 is a quadratic loss, below it saturates."""
SMALLEST = 1e-9
"""Nats; predictions below it have the temperature of this."""
LUCKY = 0.01
"""What a removal that measures no loss is read as, over its prediction: no removal is free, and one
lucky measurement must not strip an axis."""


@dataclass
class Tempering:
    """Predicted and measured loss increases of one axis, nats a unit of the loss."""

    predicted: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def add(self, predicted: float, measured: float) -> None:
        if predicted > 0:
            self.predicted.append(predicted)
            self.measured.append(measured if measured > 0 else LUCKY * predicted)

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
    """Measures what the dense model loses when some read-outs are replaced.

    With a likelihood that is known, the loss increase is the divergence of the outputs from the
    dense ones: the increase on targets of the dense model's own prediction, free of their noise.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        likelihood: Likelihood | None,
        batches: Sequence[Any],
        places: Mapping[str, BiasPlace | None],
    ) -> None:
        self.model, self.task, self.likelihood = copy.deepcopy(model).eval(), task, likelihood
        self.batches, self.places = list(batches), places
        self.tensors: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(self.model.named_buffers())
        with torch.no_grad():
            self.dense = [self._measured(batch) for batch in self.batches]

    def _measured(self, batch: Any) -> Tensor:
        """The outputs, or without a known likelihood the loss."""
        if self.likelihood is None:
            return self.task.loss(self.model, batch)
        return self.task.logits(self.model, batch)

    def _increase(self, batch: Any, dense: Tensor) -> float:
        found = self._measured(batch)
        if self.likelihood is None:
            return float(found - dense)
        targets = self.task.targets(batch)
        assert targets is not None
        return float(self.likelihood.divergence(found, dense, targets))

    @torch.no_grad()
    def increase(self, changes: Mapping[str, tuple[Any, Tensor, Tensor | None]]) -> float:
        """Loss increase, nats a unit: parameter to (matrix view, new matrix, bias gain).

        A difference of losses (no likelihood is known) is noisy, and counts no less than its
        standard error over the batches.
        """
        old: dict[str, Tensor] = {}
        for name, (matrix, value, gain) in changes.items():
            weight = self.tensors[name]
            old[name] = weight.clone()
            weight.copy_(matrix.back(value, weight))
            place = self.places.get(name)
            if gain is not None and place is not None:
                bias = self.tensors[place.name]
                old.setdefault(place.name, bias.clone())
                bias.add_(gain.to(bias), alpha=place.sign)
        try:
            weights = [units_of(self.task, batch) for batch in self.batches]
            found = [self._increase(b, d) for b, d in zip(self.batches, self.dense)]
            mean = sum(w * f for w, f in zip(weights, found)) / sum(weights)
            if self.likelihood is None and len(found) > 1:
                spread = torch.tensor(found, dtype=torch.float64).std() / math.sqrt(len(found))
                return max(mean, float(spread))
            return mean
        finally:
            for name, value in old.items():
                self.tensors[name].copy_(value)


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
    damping: float | None,
    centred: Callable[[str], bool],
) -> dict[str, tuple[Any, Tensor, Tensor | None]]:
    """The replaced read-outs when one axis keeps the units ``keep``."""
    changes = {}
    for read in judged.reads:
        seen = statistics[read.parameter]
        columns = kept_columns(read, keep, len(seen.gram))
        new, gain = dense_refit(
            model, read, seen, columns, damping=damping, centred=centred(read.parameter)
        )
        changes[read.parameter] = (read.matrix, new, gain)
    return changes


def slope(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Slope through zero of measured on predicted; 1 is calibrated."""
    bottom = sum(p * p for p in predicted)
    return sum(p * m for p, m in zip(predicted, measured)) / bottom if bottom > 0 else math.nan
