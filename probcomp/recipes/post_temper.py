r"""Tempering: what a predicted nat is really worth, axis by axis.

The quadratic prediction takes rows as independent and the loss as quadratic; neither holds. So
removals are tried: one axis at a time loses units, its read-outs are adjusted, and the loss is
measured on samples that the adjustment did not see. Predictions :math:`q` and measurements
:math:`L` are joined by a power law

.. math:: \ln L = \alpha + \rho \ln q

between the two sizes of removal that were tried, and in proportion or steeper outside of them. The
temperature at ``q`` is ``q / L``.
"""

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError, InputError
from probcomp.evidence.collect import batch_size
from probcomp.evidence.fisher import IGNORED, Categorical, Likelihood
from probcomp.evidence.fused import parts, weight_of
from probcomp.evidence.watch import BiasPlace
from probcomp.recipes.post_replay import Replay
from probcomp.recipes.task import Task
from probcomp.structure import Routers

STEEPEST = 2.0
"""Largest power beyond the removals that were tried; 1 is a quadratic loss."""
CLOSE = 1.2
"""Removals whose predictions differ by less than this factor do not give a power."""
NEAR = 2.0
"""Removals whose predictions differ by less than this factor need not both be tried."""
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
        """One tried removal; nothing is learnt where nothing was predicted.

        Raises:
            DivergenceError: One of them is not finite.
        """
        if not math.isfinite(predicted) or not math.isfinite(measured):
            raise DivergenceError(
                f"a loss of {predicted:g} was predicted for a removal and {measured:g} measured; "
                "check that the model's outputs are finite on the calibration data"
            )
        if predicted > 0:
            self.predicted.append(predicted)
            self.measured.append(measured if measured > 0 else LUCKY * predicted)

    def _law(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at predicted ones, and the power with which it grows there.

        Between two tried removals the power is that of the line through them, in logarithms.
        Outside of what was tried nothing is believed that would make a removal cheaper than in
        proportion: no saturation beyond, and no faster fall before.
        """
        points = sorted(zip(self.predicted[-2:], self.measured[-2:]))
        one = torch.ones_like(predicted)
        if not points:
            return predicted.clamp_min(0), one
        (q, loss), (last, most) = points[0], points[-1]
        below = loss * predicted.clamp_min(0) / q
        if last <= CLOSE * q:
            return below, one
        chord = math.log(max(most, loss) / loss) / math.log(last / q)
        steep = min(max(chord, 1.0), STEEPEST)
        between = loss * (predicted.clamp_min(q) / q) ** chord
        beyond = max(most, loss) * (predicted.clamp_min(last) / last) ** steep
        value = torch.where(predicted <= q, below, between)
        power = torch.where(predicted <= q, one, chord)
        further = predicted >= last
        return torch.where(further, beyond, value), torch.where(further, steep, power)

    def near(self, predicted: float) -> bool:
        """Whether a removal of much the same prediction was tried."""
        return any(q / NEAR < predicted < q * NEAR for q in self.predicted)

    def __call__(self, predicted: Tensor) -> Tensor:
        """The loss that is expected to be measured where ``predicted`` is predicted."""
        return self._law(predicted.double())[0].to(predicted)

    def worth(self, predicted: float) -> float:
        """What one more predicted nat is worth there: the slope of the curve."""
        loss, power = self._at(predicted)
        return max(loss * power / max(predicted, SMALLEST), SMALLEST)

    def temperature(self, predicted: float) -> float:
        """Predicted over expected nats at a predicted loss; 1 where nothing was tried."""
        return max(predicted, SMALLEST) / max(self._at(predicted)[0], SMALLEST)

    def _at(self, predicted: float) -> tuple[float, float]:
        law = self._law(torch.tensor(max(predicted, SMALLEST), dtype=torch.float64))
        return float(law[0]), float(law[1])


class Meter:
    """Measures what the dense model loses when some read-outs are replaced, by running it.

    With a likelihood that is known, the loss increase is the divergence of the outputs from the
    dense ones: the increase on targets of the dense model's own prediction, free of their noise.
    Batches without a label that counts are left out.

    Args:
        model: The dense model; it is copied.
        task: How it is scored.
        likelihood: The likelihood behind the loss, where it is known.
        batches: What to measure on.
        places: Read-out parameter to what takes up its mean error.
        replay: Whether outputs of all modules are kept, for all batches, so that only what follows
            a change is run.
        routers: Routers of the experts that may be silenced.

    Raises:
        InputError: No batch has a label that counts.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        likelihood: Likelihood | None,
        batches: Sequence[Any],
        places: Mapping[str, BiasPlace | None],
        *,
        replay: bool = True,
        routers: Routers | None = None,
    ) -> None:
        self.routers = routers
        self.model, self.task, self.likelihood = copy.deepcopy(model).eval(), task, likelihood
        self.real = in_real_nats(likelihood)
        self.batches, self.places = [b for b in batches if units_of(task, b)], places
        self.weights = [units_of(task, batch) for batch in self.batches]
        if not self.batches:
            raise InputError(
                "no sample that removals are measured on has a label that counts; give more samples"
            )
        self.tensors: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(self.model.named_buffers())
        self.replay = Replay(self.model) if replay else None
        with torch.no_grad():
            runs = [functools.partial(self._measured, batch) for batch in self.batches]
            self.dense = [
                run() if self.replay is None else self.replay.record(n, run)
                for n, run in enumerate(runs)
            ]

    def _measured(self, batch: Any) -> Tensor:
        """The outputs, or without a known likelihood the loss."""
        if self.likelihood is None:
            return self.task.loss(self.model, batch)
        return self.task.logits(self.model, batch)

    def _increase(self, number: int, changed: set[nn.Module], real: bool) -> float:
        batch, dense = self.batches[number], self.dense[number]
        run = functools.partial(self._measured, batch)
        found = run() if self.replay is None else self.replay.run(number, changed, run)
        likelihood = self.real if real else self.likelihood
        if likelihood is None:
            return float(found - dense)
        targets = self.task.targets(batch)
        assert targets is not None
        return float(likelihood.divergence(found, dense, targets))

    @torch.no_grad()
    def increase(
        self,
        changes: Mapping[str, tuple[Any, Tensor, Tensor | None]],
        keep: Mapping[str, Tensor] | None = None,
        *,
        real: bool = False,
    ) -> float:
        """Loss increase, nats a unit.

        Args:
            changes: Parameter to (matrix view, new matrix, bias gain).
            keep: Axis name to the experts that stay, boolean; the others are never chosen.
            real: Whether in nats of the loss itself, where the likelihood is a softer one.

        A difference of losses (no likelihood is known) is noisy, and counts no less than its
        standard error over the batches.

        Raises:
            DivergenceError: The loss is not finite.
        """
        old: dict[str, Tensor] = {}
        try:
            for name, (matrix, value, gain) in changes.items():
                weight = weight_of(self.tensors, name)
                old[name] = weight.clone()
                weight.copy_(matrix.back(value, weight))
                place = self.places.get(name)
                if gain is not None and place is not None:
                    bias = self.tensors[place.name]
                    old.setdefault(place.name, bias.clone())
                    bias.add_(gain.to(bias), alpha=place.sign)
            torch.clear_autocast_cache()  # which may hold the weights of before
            silent = {n: k for n, k in (keep or {}).items() if not bool(k.all())}
            read = [p for n in silent for p in self.routers.parameters[n]] if self.routers else []
            changed = self._owners({id(self.tensors[parts(n)[0]]) for n in (*old, *read)})
            with self.routers.without(self.model, silent) if self.routers else nullcontext():
                found = [self._increase(n, changed, real) for n in range(len(self.batches))]
        finally:
            for name, value in reversed(old.items()):  # tied weights: the first was the dense one
                weight_of(self.tensors, name).copy_(value)
            torch.clear_autocast_cache()
        mean = sum(w * f for w, f in zip(self.weights, found)) / sum(self.weights)
        if not math.isfinite(mean):
            raise DivergenceError(
                f"the loss changes by {mean:g} when units that {', '.join((*changes, *read))} read "
                "are removed; check that the model's outputs are finite on the calibration data"
            )
        if self.likelihood is None and len(found) > 1:
            spread = torch.tensor(found, dtype=torch.float64).std() / math.sqrt(len(found))
            return max(mean, float(spread))
        return mean

    def plan(
        self,
        changes: Mapping[str, tuple[Any, Tensor, Tensor | None]],
        keep: Mapping[str, Tensor] | None = None,
    ) -> tuple[float, float]:
        """Loss increase in nats of the loss itself, and how many of them one of `increase` is."""
        real = self.increase(changes, keep, real=True)
        if self.real == self.likelihood:
            return real, 1.0
        soft = self.increase(changes, keep)
        return real, real / soft if real > 0 and soft > 0 else 1.0

    def _owners(self, tensors: set[int]) -> set[nn.Module]:
        """All modules that hold one of some tensors; tied weights have several."""
        return {
            module
            for module in self.model.modules()
            for held in (module.parameters(recurse=False), module.buffers(recurse=False))
            if any(id(t) in tensors for t in held)
        }


def in_real_nats(likelihood: Likelihood | None) -> Likelihood | None:
    """A classifier's likelihood without its softness; any other as it is."""
    return replace(likelihood, softness=1.0) if isinstance(likelihood, Categorical) else likelihood


def units_of(task: Task, batch: Any) -> int:
    """What a batch counts in the loss: its samples, or the tokens that are predicted.

    Zero where labels are classes and none counts: a mean over them is none.
    """
    labels, kind = task.targets(batch), task.likelihood
    if labels is None or labels.is_floating_point():
        return batch_size(batch)
    shifted = getattr(kind, "shift", False)
    counted = int(((labels[:, 1:] if shifted else labels) != IGNORED).sum())
    if isinstance(kind, Categorical) or (kind is not None and kind.unit == "token"):
        return counted
    return batch_size(batch) if counted else 0


def slope(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Slope through zero of measured on predicted; 1 is calibrated."""
    bottom = sum(p * p for p in predicted)
    return sum(p * m for p, m in zip(predicted, measured)) / bottom if bottom > 0 else math.nan
