"""Turbo-VBI after training, as a recipe: no gradient step, one calibration set, minutes.

With a budget, which units go is decided by backward elimination on the read-outs, with curves that
are tempered by measured removals and one price for all. The numbers in the posterior are inclusion
scores around that decision (`probcomp.recipes.post_posterior`), not validated as calibrated
probabilities. Without a budget the posterior decides (`probcomp.recipes.post_rule`). What whole
experts are worth is measured (`probcomp.recipes.post_experts`).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probcomp.allocation.curves import Allocation
from probcomp.errors import BudgetError, InputError
from probcomp.evidence import Readout, readouts, unread
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.fused import Fused, fused_readouts, parts
from probcomp.evidence.watch import bias_places
from probcomp.inference import Posterior
from probcomp.inference.posterior import UnitPosterior
from probcomp.priors.base import SupportPrior
from probcomp.recipes.job import Forecast, Job, Outcome
from probcomp.recipes.likelihoods import recognised
from probcomp.recipes.methods import Method
from probcomp.recipes.post_allocate import Context, temper, temper_together
from probcomp.recipes.post_config import PostConfig as PostConfig
from probcomp.recipes.post_config import (
    Steps,
    calibration_batches,
    example_of,
    parts_of,
    settled,
)
from probcomp.recipes.post_evidence import Evidence, dense_evidence
from probcomp.recipes.post_experts import (
    CURE,
    Weighing,
    expert_scores,
    experts_by_posterior,
    found_routers,
    judge_experts,
    loss_of,
)
from probcomp.recipes.post_outputs import scale_outputs
from probcomp.recipes.post_posterior import believe
from probcomp.recipes.post_refit import refit_dense, refit_sequential
from probcomp.recipes.post_rule import by_posterior, foreseen
from probcomp.recipes.post_temper import Tempering, units_of
from probcomp.recipes.post_units import Judged, judge
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending
from probcomp.structure import Axis, zeroed

SCORES = (
    "Units were chosen by elimination with measured tempering; their probabilities are inclusion "
    "scores around that decision, not validated as calibrated probabilities."
)

SCALED = (
    "The last layer is multiplied by {:.3g}, so that the smaller model is as sure as it agrees "
    "with the dense one. Its loss depends on that factor, its decisions do not."
)


def run(job: Job) -> Outcome:
    """Judge units at their read-outs, meet the budget by one price, and refit what reads them.

    With a budget, how many units of each axis stay is settled by measured losses alone; a prior
    says which of them, and moves none from one axis to another.

    Raises:
        InputError: A prior that is none, settings of another method, or nothing that can be judged.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = job.config or PostConfig()
    if not isinstance(config, PostConfig):
        raise InputError(f"config must be a PostConfig, got {type(config).__name__}")
    if job.prior is not None and not isinstance(job.prior, SupportPrior):
        raise InputError(
            f"prior must be a prior over the units of an axis, such as Chain or Independent, got "
            f"{job.prior!r}"
        )
    read_axes, reads, fused, notes = _readable(job)
    experts, routers, more = found_routers(job)
    axes, notes = (*read_axes, *experts), notes + more
    if not axes:
        raise InputError(
            "no removable units are read by a linear layer or a convolution, and none are whole "
            "experts; this method judges units where they are read, and experts at their router. "
            + " ".join(notes or [CURE])
        )
    spending = None if job.budget is None else _spending(job, axes)
    likelihood = recognised(job.task, job.model, job.train)
    config = settled(config, likelihood)
    fitted, tried = parts_of(job.train, config, likelihood)
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
    matrices = {r.parameter: r.matrix for r in _all(reads) if parts(r.parameter)[1] is None}
    example = example_of(fitted)
    places = bias_places(job.model, matrices, example, task.run)
    places |= {r.parameter: None for f in fused for r in f.reads}
    context = Context(job, config, places)
    whole = judge_experts(job, config, task, likelihood, experts, routers, fitted, step)
    with dense_evidence(
        job,
        task,
        likelihood,
        config,
        matrices,
        places,
        lambda: step("reading the data"),
        routers,
        [read for one in fused for read in one.reads],
        (fitted, tried),
    ) as found_out:
        seen, judged = found_out.statistics, {}
        for axis in read_axes:
            likely = context.factors(reads[axis.name], seen, config.correlations)
            judged[axis.name] = judge(axis, reads[axis.name], likely, units=total_units)
            step(f"judging {axis.name}")
        for one in fused:
            judged[one.axis.name] = judged[one.axis.name].in_multiples(one.multiple)
        if spending is None:
            keep, units, temperatures, unsure = by_posterior(context, judged, found_out)
            for name, j in whole.items():
                loss, weighing = loss_of(found_out.meter, name), Weighing(total_units, 0, job.prior)
                keep[name], units[name] = experts_by_posterior(j, loss, weighing)
            judged |= whole
            notes += unsure
            for one in fused:
                keep[one.axis.name] = _in_multiples(one, keep, units)
            forecast = foreseen(
                context, judged, found_out, keep, temperatures, units=total_units, unit=task.unit
            )
        else:
            judged |= whole
            tempering, found = temper(context, judged, found_out, spending, step)
            keep = {name: judged[name].keep(m) for name, m in found.removed.items()}
            units = _posterior(
                context, judged, found_out, tempering, found, keep, total_units, step
            )
            joint, exchange = temper_together(context, judged, found_out, tempering, found, keep)
            step("measuring removals of all axes")
            forecast = _forecast(judged, tempering, joint, exchange, found, task)
            notes.append(SCORES)
        facts: dict[str, Any] = {
            "price": forecast.price,
            "predicted_increase": forecast.increase,
            "temperatures": dict(forecast.temperatures),
        }
        model = zeroed(job.structure, job.model, _whole(job, keep))
        if config.refit == "dense":
            refit_dense(job, config, judged, seen, keep, model, places)
        elif config.refit == "sequential":
            refit_dense(job, config, judged, seen, keep, model, places, fused=True)
    if config.refit == "sequential":
        fitting = replace(job, train=fitted)
        targets = found_out.targets
        refit_sequential(fitting, config, judged, keep, model, places, step, targets, routers)
    model = zeroed(job.structure, model, _whole(job, keep))
    if config.scaled:
        batches = calibration_batches(tried, config.batch_size)
        with routers.without(model, keep):
            scale = scale_outputs(model, job.model, task, likelihood, batches)
        if scale is not None:
            facts["output_scale"] = scale
            notes += [SCALED.format(scale)] if scale != 1 else []
    step.done()
    meta = {
        "method": METHOD.name,
        "budget": str(job.budget),
        "seed": job.seed,
        "calibrated": False,
        "calibration": f"{total_units} {task.unit}s",
        **facts,
    }
    return Outcome(
        model=model,
        masks={},
        keep=_whole(job, keep),
        posterior=Posterior(units=units, meta=meta),
        prior=METHOD.prior if job.prior is None else repr(job.prior),
        warnings=tuple(notes),
        forecast=forecast,
    )


def _readable(
    job: Job,
) -> tuple[tuple[Axis, ...], dict[str, tuple[Readout, ...]], tuple[Fused, ...], list[str]]:
    """Axes that are read, by what, those of them that fused experts read, and notes on others."""
    reads: dict[str, tuple[Readout, ...]] = {}
    others = [axis for axis in job.units if axis.kind != "expert"]
    for read in readouts(job.model, job.structure, others):
        reads[read.axis] = (*reads.get(read.axis, ()), read)
    reasons = dict(unread(job.model, job.structure, others))
    example = example_of(job.train)
    unknown = [axis for axis in others if axis.name in reasons and axis.kind == "neuron"]
    fused, why = fused_readouts(job.model, unknown, example, job.task.run)
    known = {one.axis.name: one for one in fused}
    reads |= {name: one.reads for name, one in known.items()}
    axes = tuple(
        known[axis.name].axis if axis.name in known else axis
        for axis in others
        if axis.name in reads
    )
    notes = [
        f"The units of {name} all stay: {reason} is not understood as a read-out."
        for name, reason in (reasons | why).items()
        if name not in known
    ]
    return axes, reads, fused, notes


def _in_multiples(
    fused: Fused, keep: Mapping[str, Tensor], units: Mapping[str, UnitPosterior]
) -> Tensor:
    """As many units as a kernel takes: the likeliest of those that would go come back."""
    stays, name = keep[fused.axis.name], fused.axis.name
    count = -(-int(stays.sum()) // fused.multiple) * fused.multiple
    best = units[name].log_odds.masked_fill(stays, torch.inf).topk(min(count, len(stays))).indices
    return torch.zeros_like(stays).index_fill_(0, best, True)


def _all(reads: Mapping[str, tuple[Readout, ...]]) -> list[Readout]:
    return [read for group in reads.values() for read in group]


def _spending(job: Job, axes: tuple[Axis, ...]) -> Spending:
    spending = Spending.of(job, axes)
    least = spending.cost({axis.name: axis.min_keep for axis in axes})
    if least > spending.allowed:
        unit, shares = job.budget.unit if job.budget else "params", (spending.allowed, least)
        asked, possible = (share / spending.dense for share in shares)
        if job.asked is not None and job.asked.unit == "prunable":  # of what all units own
            unit, own = "prunable", Spending.of(job).prunable
            asked, possible = (1 - (spending.dense - share) / own for share in shares)
        rest = [axis.name for axis in job.units if axis not in axes]
        why = "embeddings and the residual stream stay"
        if rest:
            why += f", and so do the units of {', '.join(rest)}, which this method cannot judge"
        other = "" if unit == "prunable" else ", or for a share of what units own, as prunable=0.5"
        raise BudgetError(
            f"{unit}={asked:.3g} is out of reach: {possible:.3g} of the {unit} remain when all "
            f"units are gone that can go ({why}); ask for {unit}="
            f"{math.ceil(1000 * possible) / 1000:g} or more{other}"
        )
    return spending


def _posterior(
    context: Context,
    judged: Mapping[str, Judged],
    evidence: Evidence,
    tempering: Mapping[str, Tempering],
    found: Allocation,
    keep: dict[str, Tensor],
    units: int,
    step: Steps,
) -> dict[str, UnitPosterior]:
    """Inclusion scores of each axis around the decision, at the common price.

    A prior enters as log-odds, and the units of highest odds are kept: as many of each axis as its
    share of the budget pays for. ``keep`` is brought up to date.
    """
    job, config = context.job, context.config
    posterior = {}
    for name, j in judged.items():
        price = found.price * found.costs[name] * units
        if j.axis.kind == "expert":
            loss, weighing = loss_of(evidence.meter, name), Weighing(units, price, job.prior)
            posterior[name] = expert_scores(j.axis, keep[name], loss, weighing)
            _follow(job, keep, name, posterior[name].log_odds)
            step(f"posterior of {name}")
            continue
        predicted = float(j.loss[found.removed[name]])
        # The slope of the tempered curve is what a further unit costs.
        warmth = 1 / tempering[name].worth(predicted)
        likely = context.factors(j.reads, evidence.statistics)
        # Single precision is enough for numbers that are rounded to probabilities.
        cooled = [replace(f, quadratic=f.quadratic.single().tempered(warmth)) for f in likely]
        belief = believe(
            cooled,
            keep[name],
            price=price,
            prior=job.prior,
            iterations=config.iterations,
        )
        _follow(job, keep, name, belief.log_odds)
        posterior[name] = UnitPosterior(belief.log_odds, belief.probability)
        step(f"posterior of {name}")
    return posterior


def _follow(job: Job, keep: dict[str, Tensor], name: str, log_odds: Tensor) -> None:
    """With a prior, the units of highest odds are those that stay."""
    if job.prior is not None:
        best = log_odds.topk(int(keep[name].sum())).indices
        keep[name] = torch.zeros_like(keep[name]).index_fill_(0, best, True)


def _whole(job: Job, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {a.name: torch.ones(a.size, dtype=torch.bool) for a in job.units} | dict(keep)


def _forecast(
    judged: Mapping[str, Judged],
    tempering: Mapping[str, Tempering],
    joint: Tempering,
    exchange: float,
    found: Allocation,
    task: Task,
) -> Forecast:
    """In nats of the loss itself, of which ``exchange`` are one of those that axes count in."""
    last = {n: t for n, t in tempering.items() if t.predicted}
    by_axis = {n: float(tempering[n](j.loss[found.removed[n]])) for n, j in judged.items()}
    alone = torch.tensor(sum(by_axis.values()), dtype=torch.float64)
    return Forecast(
        increase=float(joint(alone)),
        unit=task.unit,
        by_axis={name: exchange * lost for name, lost in by_axis.items()},
        temperatures={n: t.predicted[-1] / t.measured[-1] for n, t in last.items()},
        price=exchange * found.price,
    )


METHOD = Method(
    name="turbo-vbi-post",
    title="Turbo-VBI after training: no gradient step, minutes on a processor",
    source="this package; likelihood of Martens and Grosse (2015), order of Kurtic et al. (2023)",
    run=run,
    evidence="loss that removing a unit costs, its neighbours' compensation integrated out",
    prior="even odds for each unit; without a budget their odds are learnt",
    inference="backward elimination decides, scores by expectation propagation around it; without "
    "a budget its posterior decides",
    allocation="one price for all axes, tempered by measured removals",
    recovery="sequential refit of the read-outs on the pruned prefix, cross-validated ridge",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs", "prunable"),
    probabilistic=True,
    own_rule=True,
    experts=True,
)
