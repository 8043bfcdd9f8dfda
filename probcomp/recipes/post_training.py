"""Turbo-VBI after training, as a recipe: no gradient step, one calibration set, minutes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.allocation.curves import Allocation, allocate
from probcomp.data.batches import Batches, by_length, trimmed
from probcomp.errors import BudgetError, InputError
from probcomp.evidence import Readout, Statistics, collect_within, readouts, unread
from probcomp.evidence.collect import batch_size
from probcomp.evidence.fisher import Categorical, Gaussian, Likelihood
from probcomp.evidence.prefix import call_order, prefix_moments
from probcomp.inference import Posterior
from probcomp.inference.posterior import UnitPosterior
from probcomp.recipes.job import Forecast, Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.post_posterior import believe
from probcomp.recipes.post_temper import Meter, Tempering, removal, units_of
from probcomp.recipes.post_units import Judged, factors, has_bias, judge, kept_columns
from probcomp.recipes.task import Task, Tensors, default_criterion, logits_of
from probcomp.recipes.units import Spending
from probcomp.recovery.ridge import fit
from probcomp.structure import Axis, silence

REFITS = ("sequential", "dense", "none")


@dataclass(frozen=True, kw_only=True)
class PostConfig:
    """Settings of inference after training.

    Attributes:
        batch_size: Samples in a forward pass.
        limit: Most bytes of statistics held at a time; None for no limit.
        probes: Draws a sample for the Fisher matrices at the outputs; 0 for none (plain
            reconstruction errors).
        damping: Pull of selections and temperings towards the dense weights, over the mean
            diagonal of each Gram matrix.
        measured: Calibration samples that are kept back from the statistics and used to measure
            sampled removals; at most a quarter of them.
        rounds: Rounds of measuring one removal of each axis; the first at equal shares, the
            others at the allocation found so far. 0 trusts the predictions.
        refit: ``sequential`` refits read-outs in order on the pruned prefix, ``dense`` from the
            dense statistics, ``none`` leaves them.
        residual: Whether a refit also makes up for what earlier blocks left undone.
        iterations: Iterations of the posterior around the decision.
    """

    batch_size: int = 16
    limit: int | None = None
    probes: int = 1
    damping: float = 0.1
    measured: int = 32
    rounds: int = 2
    refit: str = "sequential"
    residual: bool = True
    iterations: int = 4

    def __post_init__(self) -> None:
        wrong: list[str] = []
        least = {"batch_size": 1, "measured": 1, "iterations": 1, "probes": 0, "rounds": 0}
        wrong += [
            f"{name} must be at least {bound}, got {getattr(self, name)}"
            for name, bound in (least | {"damping": 0}).items()
            if not getattr(self, name) >= bound
        ]
        if self.limit is not None and self.limit < 1:
            wrong.append(f"limit must be a positive number of bytes, got {self.limit}")
        if self.refit not in REFITS:
            wrong.append(f"refit must be one of {', '.join(REFITS)}, got {self.refit!r}")
        if wrong:
            raise InputError("; ".join(wrong))


def run(job: Job) -> Outcome:
    """Judge units at their read-outs, meet the budget by one price, and refit what reads them.

    Raises:
        InputError: Settings of another method, or nothing that can be judged.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = job.config or PostConfig()
    if not isinstance(config, PostConfig):
        raise InputError(f"config must be a PostConfig, got {type(config).__name__}")
    axes, reads, notes = _readable(job)
    spending = _spending(job, axes)
    fitted, tried = _parts(job.train, config)
    likelihood = likelihood_of(job.task, job.model, next(_batches(fitted, 2)))
    if likelihood is None and config.probes:
        notes.append(
            "The loss is no likelihood that is known, so outputs of each read-out count alike."
        )
    task = job.task
    total_units = sum(units_of(task, b) for b in _batches(fitted, config.batch_size))
    step = _Steps(job.on_step, fitted, config, axes, len({r.parameter for r in _all(reads)}))
    matrices = {r.parameter: r.matrix for r in _all(reads)}
    with collect_within(
        job.model,
        matrices,
        lambda: _batches(fitted, config.batch_size),
        task.run,
        probe=_probe(task, likelihood, config.probes, job.seed),
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
            )
            step(f"judging {axis.name}")
        meter = Meter(job.model, task, tried, config.batch_size) if config.rounds else None
        tempering, found = _allocate(job, config, judged, seen, spending, meter, step)
        keep = {name: judged[name].keep(m) for name, m in found.removed.items()}
        units = _posterior(job, config, judged, seen, tempering, found, keep, total_units, step)
        model = silence(job.structure, job.model, _whole(job, keep))
        if config.refit == "dense":
            _refit_dense(job, config, judged, seen, keep, model)
    if config.refit == "sequential":
        _refit_sequential(job, config, judged, keep, model, step)
    forecast = _forecast(judged, tempering, found, task)
    step.done()
    return Outcome(
        model=model,
        masks={},
        keep=_whole(job, keep),
        posterior=Posterior(units=units, meta=_meta(job, config, found, forecast, total_units)),
        prior="even odds for each unit" if job.prior is None else repr(job.prior),
        warnings=tuple(notes),
        forecast=forecast,
    )


def likelihood_of(task: Task, model: nn.Module, batch: Any) -> Likelihood | None:
    """The likelihood behind a task's loss, or ``None`` where it is none that is known.

    A model that computes its own loss is recognised by its value: the cross-entropy of its logits
    at the labels, or at the next ones.
    """
    if task.likelihood is not None or task.criterion is not None:
        return task.likelihood
    targets = task.targets(batch)
    with torch.no_grad():
        outputs = task.run(model, batch)
    if targets is None:
        return None
    if not isinstance(batch, dict):
        if targets.is_floating_point():
            return Gaussian()
        return _matching(logits_of(outputs), targets, None)
    loss = getattr(outputs, "loss", None)
    return None if loss is None else _matching(logits_of(outputs), targets, float(loss))


def _matching(logits: Tensor, targets: Tensor, loss: float | None) -> Likelihood | None:
    if loss is None:
        loss = float(default_criterion(logits, targets))
        if logits.dim() != targets.dim() + 1 or logits.shape[:-1] != targets.shape:
            return None
    for candidate in (Categorical(), Categorical(shift=True, unit="token")):
        if logits.shape[:-1] != targets.shape or (candidate.shift and targets.dim() < 2):
            continue
        if math.isclose(float(candidate.loss(logits, targets)), loss, rel_tol=1e-3):
            return candidate if targets.dim() == 1 else replace(candidate, unit="token")
    return None


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


def _parts(samples: Tensors, config: PostConfig) -> tuple[Tensors, Tensors]:
    """Samples for statistics, and samples for measuring; the latter at most a quarter."""
    tensors = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    count = len(tensors[0])
    tried = min(config.measured, count // 4) if config.rounds else 0
    if config.rounds and tried < 1:
        raise InputError(f"{count} calibration samples are too few; give at least 4, better 128")

    def part(a: int, b: int) -> Tensors:
        chosen = [t[a:b] for t in tensors]
        return dict(zip(samples, chosen)) if isinstance(samples, Mapping) else tuple(chosen)

    return part(0, count - tried), part(count - tried, count)


def _batches(samples: Tensors, size: int) -> Iterator[Any]:
    for batch in Batches(by_length(samples), size, shuffle=False)(0):
        yield trimmed(batch)


def _probe(
    task: Task, likelihood: Likelihood | None, probes: int, seed: int
) -> Callable[[Any, Any], list[Tensor]] | None:
    if likelihood is None or probes == 0:
        return None
    generator = torch.Generator().manual_seed(seed)

    def probe(outputs: Any, batch: Any) -> list[Tensor]:
        output, targets = task.output(outputs, batch), task.targets(batch)
        assert targets is not None
        return [likelihood.probe(output, targets, generator) for _ in range(probes)]

    return probe


def _allocate(
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    spending: Spending,
    meter: Meter | None,
    step: "_Steps",
) -> tuple[dict[str, Tempering], Allocation]:
    """Temper each axis by measured removals, and divide the budget by one price."""
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
                changes = removal(job.model, j, j.keep(gone), seen, config.damping)
                tempering[name].add(float(j.loss[gone]), meter.increase(changes))
            step(f"measuring removals of {name}")
        removed = dict(solved().removed)
    return tempering, solved()


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
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    tempering: Mapping[str, Tempering],
    found: Allocation,
    keep: dict[str, Tensor],
    units: int,
    step: "_Steps",
) -> dict[str, UnitPosterior]:
    """Beliefs about each axis around the decision, at the common price."""
    posterior = {}
    for name, j in judged.items():
        predicted = float(j.loss[found.removed[name]])
        # The slope of the tempered curve is what a further unit costs.
        warmth = tempering[name].temperature(predicted) / tempering[name].law[1]
        parts = factors(job.model, j.reads, seen, damping=config.damping)
        cooled = [replace(f, quadratic=f.quadratic.tempered(warmth)) for f in parts]
        belief = believe(
            cooled,
            keep[name],
            price=found.price * found.costs[name] * units,
            prior=job.prior,
            iterations=config.iterations,
        )
        posterior[name] = UnitPosterior(belief.log_odds, belief.probability)
        step(f"posterior of {name}")
    return posterior


def _whole(job: Job, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {a.name: torch.ones(a.size, dtype=torch.bool) for a in job.units} | dict(keep)


def _columns(job: Job, judged: Mapping[str, Judged], keep: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read-out parameter to its read-out and the columns that stay."""
    found: dict[str, tuple[Readout, Tensor]] = {}
    for name, j in judged.items():
        for read in j.reads:
            size = read.matrix.of(job.model.get_parameter(read.parameter)).shape[1]
            columns = kept_columns(read, keep[name], size)
            if read.parameter in found:
                columns &= found[read.parameter][1]
            found[read.parameter] = (read, columns)
    return found


@torch.no_grad()
def _write(model: nn.Module, read: Readout, matrix: Tensor, gain: Tensor | None) -> None:
    weight = model.get_parameter(read.parameter)
    weight.copy_(read.matrix.back(matrix, weight))
    bias = getattr(model.get_submodule(read.module), "bias", None)
    if gain is not None and bias is not None:
        bias.add_(gain.to(bias))


def _refit_dense(
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    keep: Mapping[str, Tensor],
    model: nn.Module,
) -> None:
    from probcomp.recipes.post_units import dense_refit

    for name, (read, columns) in _columns(job, judged, keep).items():
        if not bool(columns.all()):
            new, gain = dense_refit(job.model, read, seen[name], columns, damping=config.damping)
            _write(model, read, new, gain)


def _refit_sequential(
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    keep: Mapping[str, Tensor],
    model: nn.Module,
    step: "_Steps",
) -> None:
    """Walk the read-outs in the order of the forward pass; each sees the final prefix."""
    columns = _columns(job, judged, keep)
    matrices = {name: read.matrix for name, (read, _) in columns.items()}
    example = next(_batches(job.train, 2))
    for name in call_order(job.model, matrices, example, job.task.run):
        read, kept = columns[name]
        if bool(kept.any()):
            moments = prefix_moments(
                job.model,
                model,
                read.matrix,
                kept,
                _batches(job.train, config.batch_size),
                job.task.run,
                residual=config.residual,
            )
            result = fit(moments, bias=has_bias(job.model, read))
            dense = read.matrix.of(job.model.get_parameter(name).detach()).double()
            new = torch.zeros_like(dense)
            new[:, kept] = dense[:, kept] + result.change
            _write(model, read, new, result.bias if has_bias(job.model, read) else None)
        step(f"refitting {read.module}")


def _forecast(
    judged: Mapping[str, Judged],
    tempering: Mapping[str, Tempering],
    found: Allocation,
    task: Task,
) -> Forecast:
    last = {n: t for n, t in tempering.items() if t.predicted}
    by_axis = {n: float(tempering[n](j.loss[found.removed[n]])) for n, j in judged.items()}
    return Forecast(
        increase=sum(by_axis.values()),
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


class _Steps:
    """Progress over stages whose lengths are known beforehand."""

    def __init__(
        self,
        on_step: Callable[[int, int, str], None],
        fitted: Tensors,
        config: PostConfig,
        axes: tuple[Axis, ...],
        reads: int,
    ) -> None:
        count = batch_size(fitted if isinstance(fitted, Mapping) else tuple(fitted))
        batches = -(-count // config.batch_size)
        walk = reads if config.refit == "sequential" else 0
        self.total = batches + len(axes) * (2 + config.rounds) + walk + 1
        self.at, self.on_step = 0, on_step

    def __call__(self, text: str) -> None:
        self.at = min(self.at + 1, self.total - 1)
        self.on_step(self.at, self.total, text)

    def done(self) -> None:
        self.on_step(self.total, self.total, "done")


METHOD = Method(
    name="turbo-vbi-post",
    title="Turbo-VBI after training: no gradient step, minutes on a processor",
    source="this package; likelihood of Martens and Grosse (2015), order of Kurtic et al. (2023)",
    run=run,
    evidence="loss that removing a unit costs, its neighbours' compensation integrated out",
    prior="even odds, or any support prior over the units",
    inference="backward elimination to the mode, expectation propagation around it",
    allocation="one price for all axes, tempered by measured removals",
    recovery="sequential refit of the read-outs on the pruned prefix, cross-validated ridge",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs", "prunable"),
    probabilistic=True,
)
