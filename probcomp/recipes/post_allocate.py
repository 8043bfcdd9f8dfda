"""How many units of each axis go: curves tempered by tried removals, and one price for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from probcomp.allocation.curves import Allocation, allocate
from probcomp.evidence import Readout, Statistics
from probcomp.evidence.watch import BiasPlace
from probcomp.inference.quadratic import GroupFactor, Quadratic
from probcomp.inference.quadratic.likelihood import RESOLVED
from probcomp.recipes.job import Job
from probcomp.recipes.post_config import PostConfig, Steps
from probcomp.recipes.post_evidence import Evidence
from probcomp.recipes.post_temper import Tempering
from probcomp.recipes.post_units import (
    Judged,
    dense_quadratic,
    dense_refit,
    dense_weight,
    factors,
    kept_columns,
)
from probcomp.recipes.units import Spending

Changes = dict[str, tuple[Any, Tensor, Tensor | None]]
"""Read-out parameter to how it is read, its new matrix, and what its bias gains."""


@dataclass(frozen=True)
class Context:
    """What all stages need.

    Attributes:
        job: The job.
        config: The settings.
        places: Read-out parameter to the tensor that takes up its mean error.
    """

    job: Job
    config: PostConfig
    places: Mapping[str, BiasPlace | None]
    _known: dict[str, Quadratic] = field(default_factory=dict)
    _read: dict[str, Quadratic] = field(default_factory=dict)
    _parts: dict[str, list[GroupFactor]] = field(default_factory=dict)

    def centred(self, parameter: str) -> bool:
        """Whether something takes up the mean error of a read-out."""
        return self.places[parameter] is not None

    def factors(
        self, reads: Sequence[Readout], seen: Mapping[str, Statistics], correlations: bool = True
    ) -> list[GroupFactor]:
        """The likelihoods of an axis, kept for the next stage unless memory is limited."""
        key = ",".join(read.parameter for read in reads) + str(correlations)
        found = self._parts.get(key)
        if found is None:
            found = factors(
                self.job.model,
                reads,
                seen,
                damping=self.config.damping,
                centred=self.centred,
                correlations=correlations,
            )
            if self.config.limit is None:
                self._parts[key] = found
                if correlations:
                    self._read.update({r.parameter: f.quadratic for r, f in zip(reads, found)})
        return found

    def removal(self, judged: Judged, keep: Tensor, seen: Mapping[str, Statistics]) -> Changes:
        """The read-outs of an axis when it keeps some of its units and these adjust."""
        changes = {}
        for read in judged.reads:
            statistics, centred = seen[read.parameter], self.centred(read.parameter)
            columns = kept_columns(read, keep, len(statistics.gram))
            quadratic = self._quadratic(read, statistics)
            new, gain = dense_refit(quadratic, statistics, columns, centred=centred)
            changes[read.parameter] = (read.matrix, new, gain)
        return changes

    def measured(
        self, evidence: Evidence, keep: Mapping[str, Tensor], judged: Mapping[str, Judged]
    ) -> float:
        """Loss increase, nats a unit, when axes keep what ``keep`` says and the rest adjusts."""
        return evidence.meter.increase(*self._changes(evidence, keep, judged))

    def plan(
        self, evidence: Evidence, keep: Mapping[str, Tensor], judged: Mapping[str, Judged]
    ) -> tuple[float, float]:
        """As `measured` in nats of the loss itself, and how many of them one of `measured` is."""
        return evidence.meter.plan(*self._changes(evidence, keep, judged))

    def _changes(
        self, evidence: Evidence, keep: Mapping[str, Tensor], judged: Mapping[str, Judged]
    ) -> tuple[Changes, dict[str, Tensor]]:
        """What `Meter.increase` takes: read-outs that are adjusted, and experts that stay."""
        changes: Changes = {}
        for name, stays in keep.items():
            changes |= self.removal(judged[name], stays, evidence.statistics)
        return changes, {n: k for n, k in keep.items() if judged[n].axis.kind == "expert"}

    def _quadratic(self, read: Readout, statistics: Statistics) -> Quadratic:
        """Kept from one removal to the next, unless memory is limited.

        The likelihood that units were judged by has the same inputs. In single precision where the
        damping is no less than that can resolve; what is measured is noisier by far.
        """
        found = self._known.get(read.parameter)
        if found is not None:
            return found
        judged = self._read.get(read.parameter)
        if judged is not None:
            found = judged.reading(dense_weight(self.job.model, read))
        else:
            found = dense_quadratic(
                self.job.model,
                read,
                statistics,
                damping=self.config.damping,
                centred=self.centred(read.parameter),
            )
        if found.jitter >= RESOLVED:
            found = found.single()
        if self.config.limit is None:
            self._known[read.parameter] = found
        return found


def temper(
    context: Context,
    judged: Mapping[str, Judged],
    evidence: Evidence,
    spending: Spending,
    step: Steps,
) -> tuple[dict[str, Tempering], Allocation]:
    """Temper each axis by measured removals, and divide the budget by one price."""
    config = context.config
    tempering = {name: Tempering() for name in judged}
    sizes = {name: j.axis.size for name, j in judged.items()}

    def solved() -> Allocation:
        curves = {name: tempering[name](j.loss) for name, j in judged.items()}
        return allocate(curves, sizes, spending.cost, spending.allowed)

    removed = _equal_shares(judged, spending)
    for number in range(config.rounds):
        for name, j in judged.items():
            gone = min(max(removed[name], 1), len(j.order))
            near = number and tempering[name].near(float(j.loss[gone]))
            if gone and not near:
                tempering[name].add(
                    float(j.loss[gone]), context.measured(evidence, {name: j.keep(gone)}, judged)
                )
            step(f"trying removals of {name}")
        removed = dict(solved().removed)
    return tempering, solved()


def temper_together(
    context: Context,
    judged: Mapping[str, Judged],
    evidence: Evidence,
    tempering: Mapping[str, Tempering],
    found: Allocation,
    keep: Mapping[str, Tensor],
) -> tuple[Tempering, float]:
    """What the sum over axes is worth when all of them lose units: the plan, measured.

    In nats of the loss itself; beside it, how many of them a nat is that tempering is in.
    """
    joint = Tempering()
    if not context.config.rounds:
        return joint, 1.0
    expected = sum(float(tempering[n](j.loss[found.removed[n]])) for n, j in judged.items())
    increase, exchange = context.plan(evidence, keep, judged)
    joint.add(expected, increase)
    return joint, exchange


def _equal_shares(judged: Mapping[str, Judged], spending: Spending) -> dict[str, int]:
    """The same share of every axis, as little as the budget asks for."""

    def at(share: float) -> dict[str, int]:
        return {n: min(round(share * j.axis.size), len(j.order)) for n, j in judged.items()}

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        left = {n: judged[n].axis.size - m for n, m in at(middle).items()}
        low, high = (low, middle) if spending.cost(left) <= spending.allowed else (middle, high)
    return at(high)
