"""Wanda-sp, as a recipe: weight times activation norm at the read-outs, without tuning."""

from dataclasses import dataclass

from probcomp.evidence.flap import standardised
from probcomp.evidence.wanda import column_scores
from probcomp.recipes.calibrating import (
    CalibrationConfig,
    calibrated,
    check_choice,
    ended,
    settings,
)
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.units import Spending, fractions, remove_lowest


@dataclass(frozen=True, kw_only=True)
class WandaConfig(CalibrationConfig):
    """Settings of Wanda-sp.

    Attributes:
        allocation: ``uniform``, the same share of every axis (as published with FLAP); or
            ``standardised``, scores standardised within each axis and ranked over all axes (the
            re-implementation of CFSP, Wang et al. 2025).
    """

    allocation: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("allocation", self.allocation, ("uniform", "standardised"))


def run(job: Job) -> Outcome:
    """Remove the units of the smallest scores; nothing makes up for them.

    All read-outs are judged on the dense model's activations, in one pass. The published program
    prunes block by block and feeds the next block from pruned ones.

    Raises:
        InputError: A prior was given, settings of another method, or no read-outs.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = settings(job, WandaConfig)
    with calibrated(job, config) as seen:
        keys = {}
        for axis in seen.axes:
            parts = [
                column_scores(seen.weights[r.parameter], seen.statistics[r.parameter])[r.columns]
                for r in seen.reads[axis.name]
            ]
            if config.allocation == "uniform":
                keys[axis.name] = fractions(sum(part.sum(1) for part in parts))  # type: ignore[arg-type]
            else:
                keys[axis.name] = standardised(parts)
        keep = remove_lowest(Spending.of(job, seen.axes), keys)
    return ended(job, job.model, keep, warnings=seen.warnings)


METHOD = Method(
    name="wanda-sp",
    title="Remove the units whose weights times activations are smallest",
    source="An et al. (2024), AAAI, after Sun et al. (2024), ICLR",
    run=run,
    evidence="weight times norm of its input, summed over a unit's columns of its read-out",
    prior="",
    inference="ranking",
    allocation="the same share of every axis",
    recovery="none",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs"),
    probabilistic=False,
)
