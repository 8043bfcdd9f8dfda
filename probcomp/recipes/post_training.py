"""Turbo-VBI after training, as a recipe: no gradient step, one calibration set, minutes.

Which units go is decided by backward elimination on the read-outs, with curves that are tempered by
measured removals and one price for all. The numbers in the posterior are inclusion scores around
that decision (`probcomp.recipes.post_posterior`), not validated as calibrated probabilities.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.allocation.curves import Allocation, allocate
from probcomp.errors import BudgetError, InputError
from probcomp.evidence import Readout, Statistics, collect_within, readouts, unread
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.prefix import BiasPlace, bias_place
from probcomp.inference import Posterior
from probcomp.inference.posterior import UnitPosterior
from probcomp.recipes.job import Forecast, Job, Outcome
from probcomp.recipes.likelihoods import likelihood_of, probe_of
from probcomp.recipes.methods import Method
from probcomp.recipes.post_config import PostConfig as PostConfig
from probcomp.recipes.post_config import Steps, calibration_batches, parts_of
from probcomp.recipes.post_posterior import believe
from probcomp.recipes.post_refit import refit_dense, refit_sequential
from probcomp.recipes.post_temper import Meter, Tempering, removal, units_of
from probcomp.recipes.post_units import Judged, factors, judge
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending
from probcomp.structure import Axis, silence

SCORES = (
    "Units were chosen by elimination with measured tempering; their probabilities are inclusion "
    "scores around that decision, not validated as calibrated probabilities."
)


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

    def centred(self, parameter: str) -> bool:
        """Whether something takes up the mean error of a read-out."""
        return self.places[parameter] is not None


def run(job: Job) -> Outcome:
    """Judge units at their read-outs, meet the budget by one price, and refit what reads them.

    Raises:
        InputError: A prior was given, settings of another method, or nothing that can be judged.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = job.config or PostConfig()
    if not isinstance(config, PostConfig):
        raise InputError(f"config must be a PostConfig, got {type(config).__name__}")
    if job.prior is not None:
        raise InputError(
            f"turbo-vbi-post chooses units by elimination, and a prior ({job.prior!r}) would not "
            "change what is removed; leave prior= out, or train with method='turbo-vbi'"
        )
    axes, reads, notes = _readable(job)
    spending = _spending(job, axes)
    fitted, tried = parts_of(job.train, config)
    likelihood = likelihood_of(job.task, job.model, next(calibration_batches(fitted, 2)))
    if isinstance(likelihood, Categorical) and likelihood.unit == "sample":
        likelihood = replace(likelihood, softness=config.softness)
    if likelihood is None and config.probes:
        notes.append(
            "The loss is no likelihood that is known, so outputs of each read-out count alike."
        )
    # A model that computes its own loss over tokens is counted in tokens everywhere below.
    task = job.task if likelihood is None else replace(job.task, likelihood=likelihood)
    total_units = sum(units_of(task, b) for b in calibration_batches(fitted, config.batch_size))
    step = Steps(job.on_step, fitted, config, axes, len({r.parameter for r in _all(reads)}))
    matrices = {r.parameter: r.matrix for r in _all(reads)}
    example = next(calibration_batches(fitted, 2))
    places = {n: bias_place(job.model, m, example, task.run) for n, m in matrices.items()}
    context = Context(job, config, places)
    generator = torch.Generator()

    def batches() -> Iterator[Any]:
        generator.manual_seed(job.seed)  # every pass draws the same probes
        return calibration_batches(fitted, config.batch_size)

    with collect_within(
        job.model,
        matrices,
        batches,
        task.run,
        probe=probe_of(task, likelihood, config.probes, generator),
        limit=config.limit,
        on_batch=lambda: step("reading the calibration data"),
    ) as seen:
        judged: dict[str, Judged] = {}
        for axis in axes:
            judged[axis.name] = judge(
                job.model,
                axis,
                reads[axis.name],
                seen,
                damping=config.damping,
                units=total_units,
                centred=context.centred,
            )
            step(f"judging {axis.name}")
        meter = None
        if config.rounds:
            kept_back = list(calibration_batches(tried, config.batch_size))
            meter = Meter(job.model, task, likelihood, kept_back, places)
        tempering, found = _allocate(context, judged, seen, spending, meter, step)
        keep = {name: judged[name].keep(m) for name, m in found.removed.items()}
        joint = _joint(context, judged, seen, tempering, found, meter)
        step("measuring removals of all axes")
        units = _posterior(context, judged, seen, tempering, found, keep, total_units, step)
        model = silence(job.structure, job.model, _whole(job, keep))
        if config.refit == "dense":
            refit_dense(job, config, judged, seen, keep, model, places)
    if config.refit == "sequential":
        refit_sequential(job, config, judged, keep, model, places, step)
    model = silence(job.structure, model, _whole(job, keep))  # refits fill rows of removed units
    forecast = _forecast(judged, tempering, joint, found, task)
    step.done()
    return Outcome(
        model=model,
        masks={},
        keep=_whole(job, keep),
        posterior=Posterior(units=units, meta=_meta(job, config, found, forecast, total_units)),
        prior=METHOD.prior,
        warnings=(*notes, SCORES),
        forecast=forecast,
    )


def _readable(job: Job) -> tuple[tuple[Axis, ...], dict[str, tuple[Readout, ...]], list[str]]:
    reads: dict[str, tuple[Readout, ...]] = {}
    for read in readouts(job.model, job.structure, job.units):
        reads[read.axis] = (*reads.get(read.axis, ()), read)
    axes = tuple(axis for axis in job.units if axis.name in reads)
    if not axes:
        raise InputError(
            "no removable units are read by a linear layer or a convolution; this method judges "
            "units where they are read"
        )
    notes = [
        f"The units of {name} all stay: {reason} is not understood as a read-out."
        for name, reason in unread(job.model, job.structure, job.units).items()
    ]
    return axes, reads, notes


def _all(reads: Mapping[str, tuple[Readout, ...]]) -> list[Readout]:
    return [read for group in reads.values() for read in group]


def _spending(job: Job, axes: tuple[Axis, ...]) -> Spending:
    spending = Spending.of(job, axes)
    least = spending.cost({axis.name: axis.min_keep for axis in axes})
    if least > spending.allowed:
        unit = job.budget.unit if job.budget else "params"
        raise BudgetError(
            f"{unit}={spending.allowed / spending.dense:.3g} is out of reach: "
            f"{least / spending.dense:.3g} of the {unit} remain when all units are gone that can "
            f"go (embeddings and the residual stream stay); ask for {unit}="
            f"{math.ceil(1000 * least / spending.dense) / 1000:g} or more, or for a share of what "
            "units own, as in prunable=0.5"
        )
    return spending


def _allocate(
    context: "Context",
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    spending: Spending,
    meter: Meter | None,
    step: Steps,
) -> tuple[dict[str, Tempering], Allocation]:
    """Temper each axis by measured removals, and divide the budget by one price."""
    job, config = context.job, context.config
    tempering = {name: Tempering() for name in judged}
    sizes = {name: j.axis.size for name, j in judged.items()}

    def solved() -> Allocation:
        curves = {name: tempering[name](j.loss) for name, j in judged.items()}
        return allocate(curves, sizes, spending.cost, spending.allowed)

    removed = _equal_shares(judged, spending)
    for _ in range(config.rounds):
        assert meter is not None
        for name, j in judged.items():
            gone = min(max(removed[name], 1), len(j.order))
            if gone:
                changes = removal(job.model, j, j.keep(gone), seen, config.damping, context.centred)
                tempering[name].add(float(j.loss[gone]), meter.increase(changes))
            step(f"measuring removals of {name}")
        removed = dict(solved().removed)
    return tempering, solved()


def _joint(
    context: Context,
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    tempering: Mapping[str, Tempering],
    found: Allocation,
    meter: Meter | None,
) -> Tempering:
    """What the sum over axes is worth when all of them lose units: half of the plan, and all."""
    joint = Tempering()
    if meter is None:
        return joint
    if isinstance(meter.likelihood, Categorical):
        meter.likelihood = replace(meter.likelihood, softness=1.0)  # in nats of the real loss
    for share in (0.5, 1.0):
        changes: dict[str, Any] = {}
        expected = 0.0
        for name, j in judged.items():
            gone = round(share * found.removed[name])
            expected += float(tempering[name](j.loss[gone]))
            changes |= removal(
                context.job.model,
                j,
                j.keep(gone),
                seen,
                context.config.damping,
                context.centred,
            )
        joint.add(expected, meter.increase(changes))
    return joint


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


def _posterior(
    context: "Context",
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    tempering: Mapping[str, Tempering],
    found: Allocation,
    keep: dict[str, Tensor],
    units: int,
    step: Steps,
) -> dict[str, UnitPosterior]:
    """Inclusion scores of each axis around the decision, at the common price."""
    job, config = context.job, context.config
    posterior = {}
    for name, j in judged.items():
        predicted = float(j.loss[found.removed[name]])
        # The slope of the tempered curve is what a further unit costs.
        warmth = tempering[name].temperature(predicted) / tempering[name].law[1]
        parts = factors(job.model, j.reads, seen, damping=config.damping, centred=context.centred)
        cooled = [replace(f, quadratic=f.quadratic.tempered(warmth)) for f in parts]
        belief = believe(
            cooled,
            keep[name],
            price=found.price * found.costs[name] * units,
            iterations=config.iterations,
        )
        posterior[name] = UnitPosterior(belief.log_odds, belief.probability)
        step(f"posterior of {name}")
    return posterior


def _whole(job: Job, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {a.name: torch.ones(a.size, dtype=torch.bool) for a in job.units} | dict(keep)


def _forecast(
    judged: Mapping[str, Judged],
    tempering: Mapping[str, Tempering],
    joint: Tempering,
    found: Allocation,
    task: Task,
) -> Forecast:
    last = {n: t for n, t in tempering.items() if t.predicted}
    by_axis = {n: float(tempering[n](j.loss[found.removed[n]])) for n, j in judged.items()}
    alone = torch.tensor(sum(by_axis.values()), dtype=torch.float64)
    return Forecast(
        increase=float(joint(alone)),
        unit=task.unit,
        by_axis=by_axis,
        temperatures={n: t.predicted[-1] / t.measured[-1] for n, t in last.items()},
        price=found.price,
    )


def _meta(
    job: Job, config: PostConfig, found: Allocation, forecast: Forecast, units: int
) -> dict[str, Any]:
    return {
        "method": "turbo-vbi-post",
        "budget": str(job.budget),
        "seed": job.seed,
        "calibration": f"{units} {forecast.unit}s",
        "price": found.price,
        "predicted_increase": forecast.increase,
        "temperatures": dict(forecast.temperatures),
    }


METHOD = Method(
    name="turbo-vbi-post",
    title="Turbo-VBI after training: no gradient step, minutes on a processor",
    source="this package; likelihood of Martens and Grosse (2015), order of Kurtic et al. (2023)",
    run=run,
    evidence="loss that removing a unit costs, its neighbours' compensation integrated out",
    prior="even odds for each unit",
    inference="backward elimination decides; inclusion scores by expectation propagation around it",
    allocation="one price for all axes, tempered by measured removals",
    recovery="sequential refit of the read-outs on the pruned prefix, cross-validated ridge",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs", "prunable"),
    probabilistic=True,
)
