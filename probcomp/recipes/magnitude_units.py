"""Structured magnitude pruning without tuning, as a recipe."""

from dataclasses import dataclass

from probcomp.evidence.magnitude import group_norms
from probcomp.recipes.calibrating import check_choice, ended, settings
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.units import Spending, fractions, remove_lowest


@dataclass(frozen=True, kw_only=True)
class MagnitudeUnitsConfig:
    """Settings of structured magnitude pruning.

    Attributes:
        allocation: ``uniform``, the same share of every axis (Li et al. 2017, and the L2 baseline
            of LLM-Pruner); or ``global``, norms over their mean in the axis, ranked over all axes
            (DepGraph, section 3.3).
    """

    allocation: str = "uniform"

    def __post_init__(self) -> None:
        check_choice("allocation", self.allocation, ("uniform", "global"))


def run(job: Job) -> Outcome:
    """Remove the units of the smallest norms; nothing makes up for them.

    Raises:
        InputError: A prior was given, or settings of another method.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = settings(job, MagnitudeUnitsConfig)
    parameters = dict(job.model.named_parameters())
    keys = {}
    for axis in job.units:
        norms = group_norms(parameters, axis)
        keys[axis.name] = (
            fractions(norms) if config.allocation == "uniform" else norms / norms.mean()
        )
    keep = remove_lowest(Spending.of(job), keys)
    job.on_step(1, 1, "done")
    return ended(job, job.model, keep)


METHOD = Method(
    name="magnitude-units",
    title="Remove the units with the smallest weights",
    source="Li et al. (2017), ICLR; groups as in Fang et al. (2023), CVPR",
    run=run,
    evidence="Euclidean norm of all weights that go with a unit",
    prior="",
    inference="ranking",
    allocation="the same share of every axis",
    recovery="none",
    speedup="structured",
    when="after",
    data="none",
    budgets=("params", "macs"),
    probabilistic=False,
)
