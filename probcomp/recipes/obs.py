"""One-shot structured Optimal Brain Surgeon (ZipLM's layer step), as a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.evidence.obs import DAMPING, Elimination, alive, eliminate
from probcomp.inference.quadratic import Quadratic, refit
from probcomp.recipes.calibrating import (
    Calibrated,
    CalibrationConfig,
    calibrated,
    check_choice,
    ended,
    kept_columns,
    settings,
    with_weights,
)
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.units import Spending, remove_lowest

ALLOCATIONS = ("absolute", "relative", "uniform")


@dataclass(frozen=True, kw_only=True)
class ObsConfig(CalibrationConfig):
    """Settings of structured Optimal Brain Surgeon.

    Attributes:
        allocation: How many units each axis loses; which ones is always the greedy order.
            ``absolute``: one threshold on the squared error that a removal adds, for each unit of
            cost; ``relative``: over the energy of the axis's outputs as well (the relative layer
            errors of ZipLM); ``uniform``: the same share of every axis. None is best everywhere;
            the default is the one that was most often best on three networks
            (``probcomp bench post_training``). ZipLM's search over layer weights by measured loss
            is not part of the one-shot method.
        damping: Added to the diagonal of each Hessian, over its mean.
        refit: Whether what stays makes up for what went; off for comparisons only.
    """

    allocation: str = "absolute"
    damping: float = DAMPING
    refit: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("allocation", self.allocation, ALLOCATIONS)


def run(job: Job) -> Outcome:
    """Remove units one at a time with the surgeon's updates, on the dense model's activations.

    The updates end at the least-squares refit of the columns that stay, which is computed directly.

    Raises:
        InputError: A prior was given, settings of another method, or no read-outs.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = settings(job, ObsConfig)
    with calibrated(job, config) as seen:
        spending = Spending.of(job, seen.axes)
        keys = {}
        for axis in seen.axes:
            found = eliminate(
                _factors(seen, axis.name, config.damping), removals=axis.size - axis.min_keep
            )
            keys[axis.name] = removal_keys(
                found, axis.size, spending.unit_cost(axis), config.allocation
            )
        keep = remove_lowest(spending, keys)
        new = refitted(seen, keep, config.damping) if config.refit else {}
        model = with_weights(job, seen, new)
    return ended(job, model, keep, warnings=seen.warnings)


def removal_keys(found: Elimination, size: int, cost: float, allocation: str) -> Tensor:
    """Keys ``[G]`` that remove units in the greedy order; see `ObsConfig.allocation`.

    The error of a removal is made not to fall along the order: a unit can only go after those
    before it, so a cheap one behind a dear one costs no less than that one.
    """
    keys = torch.full((size,), torch.inf, dtype=torch.float64)
    if allocation == "uniform":
        ranks = torch.arange(len(found.order), dtype=torch.float64) + 0.5
        keys[found.order] = ranks / size
        return keys
    rising = torch.cummax(found.cost, 0).values if len(found.cost) else found.cost
    scale = found.energy if allocation == "relative" and found.energy > 0 else 1.0
    keys[found.order] = rising / (scale * cost)
    return keys


def refitted(seen: Calibrated, keep: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """Read-outs refitted to their dense outputs, where any input went."""
    return {
        name: refit(Quadratic(seen.weights[name], _gram(seen, name), damping), kept)
        for name, kept in kept_columns(seen, keep).items()
        if not bool(kept.all())
    }


def _factors(seen: Calibrated, axis: str, damping: float) -> list[tuple[Quadratic, Tensor]]:
    return [
        (Quadratic(seen.weights[r.parameter], _gram(seen, r.parameter), damping), r.columns)
        for r in seen.reads[axis]
    ]


def _gram(seen: Calibrated, name: str) -> Tensor:
    """Symmetric to the last bit; products in float32 are so only to their rounding."""
    gram = seen.statistics[name].gram
    return alive(0.5 * (gram + gram.mT))


METHOD = Method(
    name="obs",
    title="Remove units one at a time, and let the others make up for each",
    source="Kurtic et al. (2023), NeurIPS (ZipLM), after Hassibi and Stork (1993)",
    run=run,
    evidence="error that the best adjustment of the others leaves (Optimal Brain Surgeon)",
    prior="",
    inference="greedy removal, all scores computed again after each",
    allocation="one threshold on the error added, for each unit of cost",
    recovery="least-squares refit of the read-outs",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs"),
    probabilistic=False,
)
