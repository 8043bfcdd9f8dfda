r"""Without a budget: the posterior decides, at price zero.

Every axis gets the posterior of expectation propagation over its units
(`probcomp.inference.quadratic.ep_group`): read-out weights of a kept unit have a Gaussian slab
whose precision is learnt, those of a removed one are zero, and the likelihood is the quadratic of
the read-outs divided by a measured temperature. The prior is the user's. Without one, axes of few
units learn the share of units that are needed and their slabs from all of them, summed over
(`probcomp.inference.quadratic.ep_layers`); of axes with many, each determines its own. Units stay
that are more likely needed than not. On teachers whose support is known these numbers are
calibrated, as the tests hold them to. On the network at hand one removal of each axis sets its
temperature and none tests it, so ``calibrated`` is false in the posterior's ``meta``, reports call
them scores, and a note says why. Those of a classifier are in the nats of its softened outputs
(`PostConfig.softness`), some sixteenth of its own near the dense weights: on images that it was
trained on a sure classifier would show that nothing is needed. Other notes say where the iteration
has not settled, or an axis would lose more units than it can.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from probcomp.inference.posterior import UnitPosterior
from probcomp.inference.quadratic import GroupFactor, GroupResult, ep_group, ep_layers, refit
from probcomp.priors import Independent
from probcomp.recipes.job import Forecast
from probcomp.recipes.post_allocate import Context
from probcomp.recipes.post_evidence import Evidence
from probcomp.recipes.post_temper import Tempering
from probcomp.recipes.post_units import Judged, dense_weight, kept_columns

TRIED = 0.3
"""Share of an axis that goes in the removal that its temperature is measured on."""
ITERATIONS = 40
FEW = NARROW = 192
"""Units, and columns of a read-out, of the largest axis whose density and slab are summed over.
More units leave little of both open (of 256 an estimate is as well calibrated), and more columns
make the hundreds of inferences that it takes dear: minutes for twelve heads of 32 columns."""

UNCHECKED = (
    "Numbers of units are those of the posterior at price zero, not checked on this network: one "
    "removal of each axis sets its temperature, and none tests it."
)


def by_posterior(
    context: Context, judged: Mapping[str, Judged], evidence: Evidence
) -> tuple[dict[str, Tensor], dict[str, UnitPosterior], dict[str, float], list[str]]:
    """Units that stay, their probabilities, the temperature of each axis, and notes."""
    temperatures = {name: _temperature(context, j, evidence) for name, j in judged.items()}
    keep, units = {}, {}
    notes = [UNCHECKED]
    for name, found in _posteriors(context, judged, evidence, temperatures).items():
        j = judged[name]
        if not found.converged:
            notes.append(
                f"The probabilities of {name} have not settled: in the last of {found.iterations} "
                f"iterations one moved by {found.change:.2g}. They may be off by more than that."
            )
        stays = found.probability > 0.5
        if int(stays.sum()) < j.axis.min_keep:
            notes.append(
                f"{int(stays.sum())} units of {name} are more likely needed than not; the "
                f"{j.axis.min_keep} likeliest stay, the fewest that it can have."
            )
            best = found.log_odds.topk(j.axis.min_keep).indices
            stays = torch.zeros_like(stays).index_fill_(0, best, True)
        keep[name] = stays
        units[name] = UnitPosterior(found.log_odds, found.probability)
    return keep, units, temperatures, notes


def foreseen(
    context: Context,
    judged: Mapping[str, Judged],
    evidence: Evidence,
    keep: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    *,
    units: int,
    unit: str,
) -> Forecast:
    """What the decision costs: of each axis alone predicted, of all together measured.

    Measured on the samples that nothing was fitted to, with the read-outs adjusted to the dense
    statistics; the sum over axes where removals are not measured. Experts count in that alone.

    Args:
        context: What all stages need.
        judged: Every axis.
        evidence: What the dense model showed.
        keep: Units that stay.
        temperatures: Of each axis that is judged at its read-outs.
        units: What the loss counts: samples or tokens of the calibration set.
        unit: Their name.
    """
    by_axis = {}
    for name, temperature in temperatures.items():
        reads, lost = judged[name].reads, 0.0
        for read, factor in zip(reads, context.factors(reads, evidence.statistics), strict=True):
            given = factor.quadratic
            columns = kept_columns(read, keep[name], given.size)
            lost += given.loss_increase(refit(given, columns) - given.weight)
        by_axis[name] = lost / units / temperature
    increase = sum(by_axis.values())
    if context.config.rounds:
        increase, exchange = context.plan(evidence, keep, judged)
        by_axis = {name: exchange * lost for name, lost in by_axis.items()}
    return Forecast(
        increase=increase, unit=unit, by_axis=by_axis, temperatures=dict(temperatures), price=0.0
    )


def _temperature(context: Context, judged: Judged, evidence: Evidence) -> float:
    tempering = Tempering()
    gone = min(max(1, round(TRIED * judged.axis.size)), len(judged.order))
    if context.config.rounds and gone:
        changes = context.removal(judged, judged.keep(gone), evidence.statistics)
        tempering.add(float(judged.loss[gone]), evidence.meter.increase(changes))
    return tempering.temperature(float(judged.loss[gone]))


def _posteriors(
    context: Context,
    judged: Mapping[str, Judged],
    evidence: Evidence,
    temperatures: Mapping[str, float],
) -> dict[str, GroupResult]:
    prior = context.job.prior

    def cooled(name: str) -> list[GroupFactor]:
        parts = context.factors(judged[name].reads, evidence.statistics)
        return [GroupFactor(f.quadratic.tempered(temperatures[name]), f.columns) for f in parts]

    def narrow(name: str) -> bool:
        reads = judged[name].reads
        return all(dense_weight(context.job.model, r).shape[1] <= NARROW for r in reads)

    small = [n for n, j in judged.items() if prior is None and j.axis.size <= FEW and narrow(n)]
    together = (
        ep_layers((cooled(name) for name in small), seed=context.job.seed, iterations=ITERATIONS)
        if small
        else []
    )
    found = dict(zip(small, together, strict=True))
    alone: dict[str, Any] = {"prior": prior}
    if prior is None:
        alone = {"prior": Independent(0.5), "learn": True}
    return {
        name: found[name]
        if name in found
        else ep_group(cooled(name), iterations=ITERATIONS, **alone)
        for name in judged
    }
