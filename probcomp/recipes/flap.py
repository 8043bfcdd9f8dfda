"""FLAP, as a recipe: fluctuation of the read-outs' inputs, and their means put into biases."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from probcomp.data.batches import Batches
from probcomp.evidence.flap import column_scores, mean, standardised
from probcomp.recipes.calibrating import (
    Calibrated,
    CalibrationConfig,
    calibrated,
    check_choice,
    ended,
    kept_columns,
    settings,
)
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.units import Spending, fractions, remove_lowest
from probcomp.recovery.compensation import add_bias, mean_bias
from probcomp.structure import trace


@dataclass(frozen=True, kw_only=True)
class FlapConfig(CalibrationConfig):
    """Settings of FLAP.

    Attributes:
        allocation: ``standardised``, one threshold over all axes, with the units' parameters as
            the weights of the cut (the published default, "AL-AM"); or ``uniform``, the same share
            of every axis ("UL-UM").
        bias: Whether the mean of what is removed goes into the read-outs' biases. A read-out
            without a bias gets one.
    """

    allocation: str = "standardised"
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("allocation", self.allocation, ("standardised", "uniform"))


def run(job: Job) -> Outcome:
    """Remove the units whose output fluctuates least, and add their mean output to the biases.

    Raises:
        InputError: A prior was given, settings of another method, or no read-outs.
        BudgetError: A budget in another unit than params or macs, or out of reach.
    """
    config = settings(job, FlapConfig)
    with calibrated(job, config) as seen:
        keys = {axis.name: _scores(seen, axis.name) for axis in seen.axes}
        if config.allocation == "uniform":
            keys = {name: fractions(value) for name, value in keys.items()}
        keep = remove_lowest(Spending.of(job, seen.axes), keys)
        biases = _biases(seen, keep) if config.bias else {}
    model = copy.deepcopy(job.model)
    matrices = {r.parameter: r.matrix for reads in seen.reads.values() for r in reads}
    new_places = False
    for name, value in biases.items():
        module = model.get_submodule(matrices[name].module)
        new_places |= module.bias is None
        add_bias(module, value)
    if not new_places:
        return ended(job, model, keep, warnings=seen.warnings)
    # Biases that were not there change what goes with a unit, so the model is traced again.
    example = job.task.inputs(Batches(job.train, shuffle=False).example(2))
    structure = trace(model, example)
    return ended(job, model, keep, warnings=seen.warnings, structure=structure)


def _scores(seen: Calibrated, axis: str) -> Tensor:
    parts = [
        column_scores(seen.weights[r.parameter], seen.statistics[r.parameter])[r.columns]
        for r in seen.reads[axis]
    ]
    return standardised(parts)


def _biases(seen: Calibrated, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read-out parameter to the constant its removed inputs add on average; only where any went."""
    return {
        name: mean_bias(seen.weights[name], mean(seen.statistics[name]), kept)
        for name, kept in kept_columns(seen, keep).items()
        if not bool(kept.all())
    }


METHOD = Method(
    name="flap",
    title="Remove the units whose output fluctuates least, keep their mean as a bias",
    source="An et al. (2024), AAAI",
    run=run,
    evidence="variance of a unit's columns times their squared weights (WIFV)",
    prior="",
    inference="ranking",
    allocation="scores standardised within each axis, one threshold (AL-AM)",
    recovery="mean of the removed inputs put into biases",
    speedup="structured",
    when="after",
    data="calibration",
    budgets=("params", "macs"),
    probabilistic=False,
)
