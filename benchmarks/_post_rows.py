"""One row of the post-training table: a method, run once on a network at a budget and measured."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from _post_networks import Network, outputs
from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.data.batches import Batches
from probcomp.evidence import Readout, readouts
from probcomp.evidence.watch import bias_places
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import METHODS
from probcomp.recipes.post_config import PostConfig, calibration_batches, parts_of, settled
from probcomp.recipes.post_outputs import scale_outputs
from probcomp.recipes.post_refit import refit_sequential
from probcomp.recipes.post_units import Judged
from probcomp.recipes.task import Task
from probcomp.recipes.units import Spending
from probcomp.structure import Structure, silence, trace


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Its name.
        method: Name in `METHODS`.
        config: Settings; None for the method's own.
        ablation: Whether it belongs to the ablations and not to the comparison.
        run: What is run instead of the method.
        classes: Whether it differs for networks alone that give one class a sample; such rows are
            run with every seed.
    """

    name: str
    method: str
    config: Any = None
    ablation: bool = False
    run: Callable[[Job], Outcome] | None = None
    classes: bool = False


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network with its structure and its dense figures.

    Attributes:
        network: The network.
        structure: Its axes.
        uses: Multiply-accumulates of each weight.
        dense: Held-out figures of the dense model.
    """

    network: Network
    structure: Structure
    uses: dict[str, float]
    dense: dict[str, float]

    @classmethod
    def of(cls, network: Network) -> "Prepared":
        example = tuple(tensor[:2] for tensor in network.held[:-1])
        uses = weight_macs(network.model, lambda m: m(*example), 2)
        structure = trace(network.model, example)
        return cls(network, structure, uses, network.measure(network.model))

    def job(self, data: tuple[Tensor, ...], budget: Budget, config: Any, seed: int) -> Job:
        return Job(
            model=self.network.model,
            task=Task(likelihood=self.network.likelihood),
            train=data,
            structure=self.structure,
            units=removable(self.structure, UNIT_KINDS),
            budget=budget,
            uses=self.uses,
            config=config,
            seed=seed,
        )

    def budget(self, removed: float) -> tuple[Budget, float, float]:
        """The budget that removes a share of the prunable parameters; dense and prunable counts."""
        spending = Spending.of(self.job((), Budget(params=1.0), None, 0))
        left = spending.dense - removed * spending.prunable
        return Budget(params=float(int(left))), spending.dense, spending.prunable


def forward_seconds(prepared: Prepared, data: tuple[Tensor, ...]) -> float:
    """Processor seconds of the dense model on the calibration samples, the unit of cost."""
    start = time.process_time()
    with torch.no_grad():
        for batch in Batches(data, 32, shuffle=False)():
            prepared.network.model(*batch[:-1])
    return time.process_time() - start


def run_row(
    prepared: Prepared, row: Row, data: tuple[Tensor, ...], removed: float, seed: int
) -> tuple[dict[str, Any], Outcome]:
    """Decide, and measure on held-out samples; batch norms by one rule, see `settled_norms`."""
    budget, dense, prunable = prepared.budget(removed)
    job = prepared.job(data, budget, row.config, seed)
    start = time.process_time()
    outcome = (row.run or METHODS[row.method].run)(job)
    seconds = time.process_time() - start
    counts = {a.name: int(outcome.keep[a.name].sum()) for a in job.units if a.name in outcome.keep}
    left = Spending.of(job).cost(counts)
    figures: dict[str, Any] = {
        "row": row.name,
        "method": row.method,
        "ablation": row.ablation,
        "network": prepared.network.name,
        "removed": removed,
        "seed": seed,
        "removed_achieved": (dense - left) / prunable,
        "seconds": seconds,
        "kept": counts,
        "warnings": list(outcome.warnings),
    }
    if outcome.forecast is not None:
        figures["forecast"] = outcome.forecast.increase
    model = outcome.model
    if has_batch_norm(model):
        model, figures["batch_norm"] = settled_norms(prepared.network, model, data)
    measured = prepared.network.measure(model)
    figures |= measured
    figures["loss_increase"] = measured["loss"] - prepared.dense["loss"]
    return figures, outcome


def obs_with_our_refit(job: Job) -> Outcome:
    """The units that OBS keeps, with our sequential refit: ours less this is our choice of units.

    And this less OBS is the refit: the same units, adjusted in order on the pruned prefix with a
    cross-validated penalty, instead of once on the dense activations.
    """
    decided = METHODS["obs"].run(job)
    config = settled(PostConfig(), job.task.likelihood)
    fitting = replace(job, train=parts_of(job.train, config, job.task.likelihood)[0])
    reads: dict[str, list[Readout]] = {}
    for read in readouts(job.model, job.structure, job.units):
        reads.setdefault(read.axis, []).append(read)
    axes = {axis.name: axis for axis in job.units}
    nothing = torch.zeros(0)
    judged = {n: Judged(axes[n], tuple(r), nothing.long(), nothing) for n, r in reads.items()}
    example = next(calibration_batches(job.train, 2))
    matrices = {r.parameter: r.matrix for group in reads.values() for r in group}
    places = bias_places(job.model, matrices, example, job.task.run)
    model = silence(job.structure, job.model, decided.keep)
    refit_sequential(fitting, config, judged, decided.keep, model, places, lambda text: None)
    return replace(decided, model=model)


def with_our_scale(method: str, settings: Any) -> Callable[[Job], Outcome]:
    """A baseline as it is, with the factor on a classifier's outputs that ours gets."""

    def run(job: Job) -> Outcome:
        decided = METHODS[method].run(replace(job, config=settings))
        config, likelihood = PostConfig(), job.task.likelihood
        tried = parts_of(job.train, config, likelihood)[1]
        batches = calibration_batches(tried, config.batch_size)
        scale_outputs(decided.model, job.model, job.task, likelihood, batches)
        return decided

    return run


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def settled_norms(
    network: Network, model: nn.Module, data: tuple[Tensor, ...]
) -> tuple[nn.Module, str]:
    """The model with its batch norms re-estimated on the calibration samples, where that helps.

    Decided on calibration samples alone: norms re-estimated on the even samples against those that
    the method left, by the loss on the odd ones. Plain removal needs new statistics; a method that
    restores the outputs in front of a norm loses by them.
    """
    even, odd = (tuple(t[k::2] for t in data) for k in (0, 1))

    def loss(candidate: nn.Module) -> float:
        return float(network.likelihood.loss(outputs(candidate, odd[:-1], 128), odd[-1]))

    if loss(reestimated(model, even)) < loss(model):
        return reestimated(model, data), "re-estimated"
    return model, "as the method left them"


def reestimated(model: nn.Module, data: tuple[Tensor, ...]) -> nn.Module:
    """A copy whose batch norms have the mean and variance of the calibration samples."""
    model = copy.deepcopy(model).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in Batches(data, 128, shuffle=False)():
            model(*batch[:-1])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
