"""Magnitude pruning with a refit, as a recipe: the baseline that every method must beat."""

from probcomp.data.batches import Batches
from probcomp.errors import BudgetError, InputError
from probcomp.inference.baselines.magnitude import magnitude, magnitude_masks
from probcomp.recipes.batch_size import batch_size
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.needed import all_needed
from probcomp.recipes.share import cost_and_share


def run(job: Job) -> Outcome:
    """Keep the largest weights that the budget allows, ranked over all layers, and refit them.

    Raises:
        InputError: A prior or settings were given; this method has none.
        BudgetError: No budget, or what is never pruned (biases, norms) costs more than the budget.
    """
    if job.prior is not None or job.config is not None:
        raise InputError("magnitude pruning has no prior and no settings; leave them out")
    names = list(job.uses)
    if not names:
        raise InputError("the model has no linear or convolution layer to prune")
    count = affordable(job, names)
    job.on_step(0, 1, f"refitting {count:,} weights")
    result = magnitude(
        job.model,
        Batches(job.train, batch_size=batch_size(Batches(job.train).samples), seed=job.seed),
        loss=job.task.loss,
        nonzeros=count,
        names=names,
        seed=job.seed,
    )
    keep, notes = all_needed(job, result.model, result.masks)
    job.on_step(1, 1, "done")
    return Outcome(
        model=result.model,
        masks=result.masks,
        keep=keep,
        history={
            "step": [float(i + 1) for i in range(len(result.refit_history))],
            "nll": result.refit_history,
        },
        warnings=("Magnitude pruning gives a decision and no probabilities.", *notes),
    )


def affordable(job: Job, names: list[str]) -> int:
    """The most weights, largest first, that fit the budget; by bisection on the count."""
    cost, share = cost_and_share(job)
    if share is None:
        raise BudgetError("magnitude pruning needs a budget, such as params=0.1")
    parameters = dict(job.model.named_parameters())
    price = {n: float((cost or {}).get(n, 1.0 if cost is None else 0.0)) for n in parameters}
    allowed = share * sum(price[n] * p.numel() for n, p in parameters.items())
    fixed = sum(price[n] * p.numel() for n, p in parameters.items() if n not in names)
    if fixed > allowed:
        raise BudgetError(
            f"biases and other parameters that are never pruned cost {fixed:g}, "
            f"but {job.budget} allows {allowed:g}"
        )

    def spent(count: int) -> float:
        masks = magnitude_masks(job.model, count, names=names)
        return fixed + sum(price[n] * int(mask.sum()) for n, mask in masks.items())

    low, high = 0, sum(parameters[n].numel() for n in names)
    if spent(high) <= allowed:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
    return low


METHOD = Method(
    name="magnitude",
    title="Keep the largest weights and refit them",
    source="Han, Pool, Tran and Dally (2015), NeurIPS; one cut",
    run=run,
    evidence="absolute value of the weight",
    prior="",
    inference="ranking",
    allocation="global threshold",
    recovery="refit of the survivors with the mask fixed",
    speedup="unstructured",
    when="after",
    data="training",
    budgets=("params", "macs", "bits"),
    probabilistic=False,
)
