"""What methods that judge units by their read-outs share: one calibration pass, one ending."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.evidence import Readout, Statistics, collect_within, readouts, unread
from probcomp.recipes.job import Job, Outcome
from probcomp.structure import Axis, silence


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Settings of a calibration pass.

    Attributes:
        batch_size: Samples in a forward pass.
        limit: Most bytes of statistics held at a time; None for no limit.
        statistics: What an earlier pass over the same data saw in the same model, by read-out
            parameter; then there is no pass. To compare methods, or budgets, on one pass.
    """

    batch_size: int = 32
    limit: int | None = None
    statistics: Mapping[str, Statistics] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be a positive number of bytes, got {self.limit}")


Config = TypeVar("Config")


def settings(job: Job, kind: type[Config]) -> Config:
    """The method's settings, or its defaults.

    Raises:
        InputError: A prior was given, or settings of another method.
    """
    if job.prior is not None:
        raise InputError("this method ranks units and has no prior; leave prior= out")
    config = kind() if job.config is None else job.config
    if not isinstance(config, kind):
        names = ", ".join(f.name for f in fields(kind))  # type: ignore[arg-type]
        raise InputError(f"config must be a {kind.__name__} ({names}), got {type(config).__name__}")
    return config


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is not one of its choices."""
    if value not in choices:
        raise InputError(f"{what} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The axes that can be judged, their read-outs, and what these saw.

    Attributes:
        axes: Axes all of whose readers are known.
        reads: Read-outs of each axis.
        weights: Read-out parameter to its dense matrix ``[do, di]``, float64.
        statistics: Read-out parameter to what it saw.
        warnings: Axes that stay whole, and why.
    """

    axes: tuple[Axis, ...]
    reads: Mapping[str, tuple[Readout, ...]]
    weights: Mapping[str, Tensor]
    statistics: Mapping[str, Statistics]
    warnings: tuple[str, ...]


@contextmanager
def calibrated(job: Job, config: CalibrationConfig) -> Iterator[Calibrated]:
    """One pass over the calibration data on the dense model.

    Raises:
        InputError: No axis has read-outs, or values that are not finite.
    """
    found = readouts(job.model, job.structure, job.units)
    reads: dict[str, tuple[Readout, ...]] = {}
    for read in found:
        reads[read.axis] = (*reads.get(read.axis, ()), read)
    axes = tuple(axis for axis in job.units if axis.name in reads)
    if not axes:
        raise InputError(
            "no removable units are read by a linear layer or a convolution; this method judges "
            "units where they are read"
        )
    reasons = unread(job.model, job.structure, job.units)
    warnings = tuple(
        f"The units of {name} all stay: {reason} is not understood as a read-out."
        for name, reason in reasons.items()
    )
    matrices = {read.parameter: read.matrix for read in found}
    parameters = dict(job.model.named_parameters(remove_duplicate=False))
    weights = {
        name: matrix.of(parameters[name].detach()).double().cpu()
        for name, matrix in matrices.items()
    }
    given = config.statistics
    if given is not None:
        missing = sorted(set(matrices) - set(given))
        if missing:
            raise InputError(f"the statistics that were given lack {', '.join(missing)}")
        yield Calibrated(axes, reads, weights, given, warnings)
        return
    batches = Batches(job.train, batch_size=config.batch_size, shuffle=False)
    steps = len(batches) + 1
    done = [0]

    def on_batch() -> None:
        done[0] += 1
        job.on_step(min(done[0], steps - 1), steps, "calibrating")

    with collect_within(
        job.model, matrices, batches, job.task.run, limit=config.limit, on_batch=on_batch
    ) as statistics:
        yield Calibrated(axes, reads, weights, statistics, warnings)
    job.on_step(steps, steps, "done")


def kept_columns(seen: Calibrated, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read-out parameter to booleans ``[di]``, true where a column stays."""
    kept: dict[str, Tensor] = {}
    for axis in seen.axes:
        for read in seen.reads[axis.name]:
            size = seen.weights[read.parameter].shape[1]
            mask = kept.setdefault(read.parameter, torch.ones(size, dtype=torch.bool))
            mask[read.columns[~keep[axis.name]].flatten()] = False
    return kept


def with_weights(job: Job, seen: Calibrated, new: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the dense model with other read-out matrices."""
    model = copy.deepcopy(job.model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    matrices = {r.parameter: r.matrix for reads in seen.reads.values() for r in reads}
    with torch.no_grad():
        for name, value in new.items():
            parameters[name].copy_(matrices[name].back(value, parameters[name]))
    return model


def ended(job: Job, model: nn.Module, keep: Mapping[str, Tensor], **changes: Any) -> Outcome:
    """The outcome: units that went are zero in the model."""
    whole = {axis.name: torch.ones(axis.size, dtype=torch.bool) for axis in job.units}
    decision = whole | dict(keep)
    structure = changes.get("structure") or job.structure
    fields_ = {"warnings": ("This method gives a decision and no probabilities.",)} | changes
    return Outcome(model=silence(structure, model, decision), masks={}, keep=decision, **fields_)
