"""What a method is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.inference import Posterior
from probcomp.recipes.task import Task, Tensors
from probcomp.structure import Axis, Structure


@dataclass(frozen=True, kw_only=True)
class Job:
    """A compression to carry out.

    Attributes:
        model: The dense model; a method must not change it.
        task: How the model is run and scored.
        train: Training tensors.
        structure: The model's axes.
        units: The axes whose units may be removed, disjoint enough to be gated one by one.
        budget: What may remain; ``None`` for the method's own rule.
        asked: The budget as the user named it; ``budget`` has the same in a unit that methods know.
        uses: Parameter name to multiply-accumulates of one sample for each weight.
        prior: A support prior, or ``None`` for the method's own.
        config: The method's own settings, or ``None``.
        seed: Seed of every random step.
        checkpoint: Directory for checkpoints, or ``None``.
        on_step: Called with a line of text after each step of long work.
    """

    model: nn.Module
    task: Task
    train: Tensors
    structure: Structure
    units: tuple[Axis, ...]
    budget: Budget | None
    uses: Mapping[str, float]
    asked: Budget | None = None
    prior: Any = None
    config: Any = None
    seed: int = 0
    checkpoint: Path | None = None
    on_step: Callable[[int, int, str], None] = lambda step, total, text: None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a method expected its decision to cost, in nats of the loss itself.

    Attributes:
        increase: Predicted increase of the loss, nats a ``unit``, before any refit on the pruned
            prefix.
        unit: ``sample`` or ``token``.
        by_axis: Axis name to the increase where that axis alone loses its units.
        temperatures: Axis name to predicted over measured nats of its last sampled removal.
        price: Loss for each unit of the budget, at the margin.
    """

    increase: float
    unit: str
    by_axis: Mapping[str, float]
    temperatures: Mapping[str, float]
    price: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A decision on every support, before surgery.

    Attributes:
        model: The dense-shaped model with its final values, zero where masks and units are off.
        masks: Parameter name to what is kept of it.
        keep: Axis name to the units kept, as `probcomp.structure.shrink` takes it.
        posterior: Inclusion probabilities and moments; empty for a method that has none.
        prior: The prior in words.
        history: Series over the steps.
        warnings: Sentences the reader of the report must know.
        orders: Axis name to the original numbers of its units in the model's order, where the
            method put them in another.
        structure: The axes of ``model``, where the method changed what goes with a unit (a bias
            that was not there); ``None`` for those of the job.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    keep: Mapping[str, Tensor]
    posterior: Posterior = field(default_factory=Posterior)
    prior: str = ""
    history: Mapping[str, list[float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    orders: Mapping[str, Tensor] = field(default_factory=dict)
    forecast: Forecast | None = None
    structure: Structure | None = None
