"""Turbo-VBI at training time, as a recipe."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.training import Info, TurboConfig, fit
from probcomp.recipes.batch_size import batch_size
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.share import cost_and_share
from probcomp.recipes.turbo_checking import AGREES, EDGES
from probcomp.recipes.turbo_reading import FEWEST_CHECKED, MISFIT, RANGES, STEPS, Reader

HONESTY = (
    "Inclusion scores are not probabilities: they were not validated against the loss "
    "when weights are taken away"
)
CHECKED = (
    "Inclusion scores of weights are the probability of one weight with all others at their means, "
    "as checked against the loss in each range of evidence; where weights can stand in for each "
    "other they are no more than scores"
)


def run(job: Job) -> Outcome:
    """Train under the three-layer prior, and decide every support at the budget.

    Raises:
        InputError: Settings of another method.
        BudgetError, DivergenceError: See `probcomp.inference.training.fit`.
    """
    config = job.config or TurboConfig()
    if not isinstance(config, TurboConfig):
        raise InputError(f"config must be a TurboConfig, got {type(config).__name__}")
    cost, share = cost_and_share(job)
    done, total = 0, config.rounds + STEPS

    def advance(text: str, round: int | None = None) -> None:
        nonlocal done
        done = done + 1 if round is None else round  # a run that goes on begins at a later round
        job.on_step(done, total, text)

    result = fit(
        job.model,
        Batches(
            job.train,
            batch_size=batch_size(Batches(job.train).samples),
            seed=job.seed,
            terms=job.task.terms(job.train),
        ),
        loss=job.task.loss,
        units=job.units,
        prior=job.prior,
        cost=cost,
        target=share,
        config=config,
        seed=job.seed,
        checkpoint=job.checkpoint,
        on_step=lambda i: advance(f"nll {i.nll:.3f}  kept {i.keep:.1%}", i.round),
        reader=Reader(job.task, job.train, job.seed, on_step=advance),
    )
    if done < total:  # a reading that passes early says fewer lines
        job.on_step(total, total, "done")
    warnings = [*honesty(result.posterior.meta), *starved(job, result.keep)]
    if not result.messages_converged:
        warnings.append(
            "Message passing over the supports did not settle; the probabilities are approximate."
        )
    if result.price < 0:
        warnings.append(
            f"The posterior asks for {result.expected:.1%} of the cost; the budget allows more, "
            "and the likeliest of the rest fill it. Inclusion scores are those without a price."
        )
    prior = repr(job.prior) if job.prior is not None else words(config)
    meta = {**result.posterior.meta, "prior": prior, "budget": str(job.budget or "its own")}
    return Outcome(
        model=result.model,
        masks=result.masks,
        keep=result.keep,
        posterior=replace(result.posterior, meta=meta),
        prior=prior,
        history=_series(result.history),
        warnings=tuple(warnings),
        orders=result.orders,
    )


def honesty(meta: Mapping[str, Any]) -> list[str]:
    """What was checked of the inclusion numbers, and what they may not be taken for."""
    if "not_read" in meta:
        return [f"{HONESTY} ({meta['not_read']})."]
    if "misfit_of_ranges" in meta:
        return [_measured(meta)]
    slope = meta.get("removal_slope")
    if slope is None:
        return [f"{HONESTY}."]
    checked = f"{meta['removals'] // 2} weights"
    bins = ", ".join(
        f"{'too few' if ratio is None else format(ratio, '.2f')} at {low:g} to {high:g} nats"
        for (low, high), ratio in zip(pairwise(EDGES), meta["evidence_slope_of_bins"], strict=True)
    )
    found = (
        f"{slope:.2g} of the promised loss was measured on {checked} of a check, after a "
        f"temperature of {meta['temperature_of_removals']:.2g} from as many others; by the "
        f"evidence of a weight, {bins}"
    )
    if not meta["conditional"]:
        # Far from the quadratic the ratios are wild, and say no more than that it does not hold.
        low, high = AGREES
        failed = [
            f"{a:g} to {b:g}"
            for (a, b), ratio in zip(pairwise(EDGES), meta["evidence_slope_of_bins"], strict=True)
            if ratio is None or not low <= ratio <= high
        ]
        return [
            f"{HONESTY} within 25 %. Over all, {slope:.2g} of what was promised was measured on "
            f"{checked}; the evidence of single weights failed or had too few of them at "
            f"{', '.join(failed) or 'no range'} nats."
        ]
    return [
        f"{CHECKED}. {found[0].upper()}{found[1:]}. This is on training data; the prior was not "
        "checked, nor any score of a unit."
    ]


def _measured(meta: Mapping[str, Any]) -> str:
    """The same where the evidence was measured: the worst range, and ranges without weights."""
    lows, tried = RANGES[:-1], meta["checked_of_ranges"]
    ranges = list(zip(lows, meta["misfit_of_ranges"], tried, strict=True))
    found = [(error, count, low) for low, error, count in ranges if error is not None]
    empty = [f"{low:g}" for low, error, _ in ranges if error is None]
    off = "no weight could be tried on a dense grid"
    if found:
        error, count, low = max(found)
        off = (
            f"the log-odds of {sum(tried)} weights tried on dense grids are off by {error:.2f} at "
            f"worst (nats, or share of their size; {count} from {low:g} nats)"
        )
    if found and empty:
        off += f", with none to try from {' and '.join(empty)} nats"
    measured = f"evidence is measured on the loss for {meta['measured']} weights, and {off}"
    if not meta["conditional"]:
        return f"{HONESTY} within {MISFIT:g} on {FEWEST_CHECKED} weights or more: {measured}."
    return (
        f"{CHECKED}. {measured[0].upper()}{measured[1:]}; all on training data, and neither the "
        "prior nor scores of units were checked."
    )


def starved(job: Job, keep: Mapping[str, Tensor]) -> list[str]:
    """A warning where a budget in MACs left as few units as may be; see `cost_and_share`."""
    if job.budget is None or job.budget.unit != "macs":
        return []
    bare = [
        f"{axis.name} ({int(keep[axis.name].sum())} of {axis.size})"
        for axis in job.units
        if int(keep[axis.name].sum()) <= axis.min_keep < axis.size
    ]
    if not bare:
        return []
    return [
        f"The budget in MACs cut these layers to the fewest units allowed: {', '.join(bare)}. "
        "What reads them sees almost nothing; allow more MACs, raise min_keep, or give the budget "
        "in params."
    ]


def words(config: TurboConfig) -> str:
    """The default prior in words."""
    return (
        f"three-layer Gamma hierarchy, lattice of supports (field {config.field:g}, coupling "
        f"{config.coupling:g}), unit gates (log-odds {config.gate_field:g})"
    )


def _series(history: list[Info]) -> Mapping[str, list[float]]:
    return {
        "step": [float(info.round) for info in history],
        "nll": [info.nll for info in history],
        "kl": [float(sum(info.kl.values())) for info in history],
        "density": [info.keep for info in history],
        "price": [info.price for info in history],
    }


METHOD = Method(
    name="turbo-vbi",
    title="Three-layer hierarchical prior, structured Bayesian compression while training",
    source="Xia, Tsang and Lau (2023), IEEE TSP 71:670-685",
    run=run,
    evidence="weight posterior with the precision integrated out (collapsed Gamma)",
    prior="lattice over each weight matrix, a gate for each unit",
    inference="Turbo-VBI: variational weights, sum-product over supports",
    allocation="one price for all layers, by bisection",
    recovery="refit of the survivors with the mask fixed",
    speedup="structured and unstructured",
    when="during",
    data="training",
    budgets=("params", "macs", "bits"),
    own_rule=True,
    probabilistic=True,
)
