"""What a budget leaves for the weights that may be masked."""

from collections.abc import Mapping

from probcomp.errors import BudgetError
from probcomp.recipes.job import Job
from probcomp.recipes.post_weights_decide import check_pattern, is_pattern
from probcomp.recipes.post_weights_layers import Layers
from probcomp.recipes.share import cost_and_share


def allowed_cost(job: Job, layers: Layers, shapes: Mapping[str, tuple[int, int]]) -> float | None:
    """What the masked weights may cost in all, in the unit of the budget; None without one.

    Raises:
        BudgetError: It is below what is never masked, or below what a pattern keeps, or counts what
            the model has none of.
    """
    if job.budget is None:
        return None
    if job.budget.unit == "macs" and not any(job.uses.values()):
        raise BudgetError(f"{job.budget} is out of reach: no multiply-accumulates were counted")
    cost, share = cost_and_share(job)
    assert share is not None
    parameters = dict(job.model.named_parameters())
    each = {n: float((cost or {}).get(n, 1.0 if cost is None else 0.0)) for n in parameters}
    dense = sum(each[n] * p.numel() for n, p in parameters.items())
    fixed = sum(each[n] * p.numel() for n, p in parameters.items() if n not in layers.matrices)
    allowed = share * dense - fixed

    def say(needed: float) -> str:
        least = -(-1000 * (fixed + needed) // dense) / 1000
        unit = (job.asked or job.budget).unit  # type: ignore[union-attr]
        if unit == job.budget.unit:  # type: ignore[union-attr]
            return f"ask for {unit}={least:g} or more"
        return f"ask for params={least:g} or more"

    if allowed <= 0:
        raise BudgetError(
            f"{job.budget} is out of reach: parameters that are never masked (embeddings, biases, "
            f"norms) cost {fixed:g} of {dense:g}; {say(0.0)}"
        )
    if is_pattern(job.prior):
        check_pattern(job.prior, shapes, layers.costs, allowed, say)
    return allowed


def share_gone(
    allowed: float | None, costs: Mapping[str, float], sizes: Mapping[str, int]
) -> float:
    """Share of the weights that a budget takes, in (0, 1]; one half, for want of a better, without.

    Args:
        allowed: What the weights may cost; None without a budget.
        costs: Parameter name to what one weight costs.
        sizes: Parameter name to how many it has.
    """
    whole = sum(costs[n] * size for n, size in sizes.items())
    if allowed is None or not whole > 0:
        return 0.5
    return min(max(1 - allowed / whole, 1 / sum(sizes.values())), 1.0)
