"""What a decision costs in the budget's unit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from probcomp.errors import BudgetError
from probcomp.inference.baselines.preparing import KINDS, all_masks
from probcomp.inference.baselines.readout import Limit, settle
from probcomp.recipes.job import Job
from probcomp.recipes.share import cost_and_share


def limit_of(job: Job) -> Limit | None:
    """The job's budget for a baseline, or ``None`` where the method's own rule decides.

    Raises:
        BudgetError: What is never pruned costs more than the budget.
    """
    cost, share = cost_and_share(job)
    if share is None:
        return None
    parameters = dict(job.model.named_parameters())
    price = {n: 1.0 if cost is None else cost.get(n, 0.0) for n in parameters}

    def total(name: str, mask: Tensor | None) -> float:
        each = price[name]
        size = parameters[name].shape
        here = torch.ones(size, dtype=torch.bool) if mask is None else mask.expand(size)
        if isinstance(each, Tensor):
            return float(each.expand(size)[here].double().sum())
        return float(each) * int(here.sum())

    def spent(masks: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> float:
        whole = all_masks(job.model, job.units, masks, keep)
        return sum(total(name, whole.get(name)) for name in parameters)

    allowed = share * sum(total(name, None) for name in parameters)
    layers = (n for n, module in job.model.named_modules() if type(module) in KINDS)
    names = parameters.keys() & job.uses.keys() & {f"{n}.weight".lstrip(".") for n in layers}
    nothing = {name: torch.zeros_like(parameters[name], dtype=torch.bool) for name in names}
    fixed = spent(*settle(job.model, nothing, job.units))
    if fixed > allowed:
        raise BudgetError(
            f"parameters that are never pruned cost {fixed:g}, but {job.budget} allows {allowed:g}"
        )
    return Limit(spent=spent, allowed=allowed)
