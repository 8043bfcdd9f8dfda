"""A job on the small trained network."""

from typing import Any

from probcomp.allocation import Budget
from probcomp.allocation.counts import weight_macs
from probcomp.recipes.compress import removable
from probcomp.recipes.job import Job
from probcomp.recipes.task import Task
from probcomp.structure import trace
from tests.recipes.nets import clouds, trained


def job(budget: str | None, **changes: Any) -> Job:
    model, data = trained(), clouds()
    structure = trace(model, (data[0][:2],))
    uses = weight_macs(model, lambda m: m(data[0][:2]), 2)
    given = {
        "model": model,
        "task": Task(),
        "train": data,
        "structure": structure,
        "units": removable(structure, ("neuron",)),
        "budget": None if budget is None else Budget.parse(budget),
        "uses": uses,
    }
    return Job(**(given | changes))
