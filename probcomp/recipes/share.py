"""A budget as what each weight costs, and the share of it that may remain."""

from torch import Tensor

from probcomp.recipes.job import Job


def cost_and_share(job: Job) -> tuple[dict[str, Tensor | float] | None, float | None]:
    """The budget as a cost for each entry of each parameter, and the share that may remain.

    Without a budget the share is ``None``: what the posterior asks for at price 0.

    Budgets in bits and in prunable parameters come as one in parameters.

    Notes:
        A budget in MACs charges a weight for each position it acts on, while its evidence is
        bounded whatever their number. Where early convolutions cost hundreds of MACs a weight and
        later layers one (LeNet-5), it starves the former; a budget in parameters is the better one
        there.
    """
    parameters = dict(job.model.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    budget = job.budget
    if budget is None:
        return None, None
    if budget.unit == "macs":
        cost: dict[str, Tensor | float] = dict.fromkeys(parameters, 0.0)
        cost |= job.uses
        dense = sum(use * parameters[name].numel() for name, use in job.uses.items())
        return cost, budget.amount(dense) / dense
    return None, budget.amount(total) / total
