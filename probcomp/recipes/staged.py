"""Methods that cut to a budget while they train: staged pruning, and PDP."""

import functools
from collections.abc import Callable
from typing import Any

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.baselines import (
    IterativeConfig,
    PDPConfig,
    Pruned,
    Schedule,
    Setting,
    iterative,
    pdp,
)
from probcomp.recipes.fisher_targets import fisher_targets
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.pricing import limit_of
from probcomp.recipes.variational import outcome


def recipe(
    fit: Callable[[Setting, Any, Job], Pruned], default: Schedule, steps: Callable[[Any], int]
) -> Callable[[Job], Outcome]:
    """The ``run`` of a staged method: ``steps(config)`` is the length of its progress bar."""

    def run(job: Job) -> Outcome:
        if job.prior is not None:
            raise InputError("this method has no support prior; leave prior out")
        config = job.config if job.config is not None else default
        if type(config) is not type(default):
            raise InputError(
                f"config must be a {type(default).__name__}, got {type(config).__name__}"
            )
        setting = Setting(
            model=job.model,
            batches=Batches(job.train, batch_size=config.batch_size, seed=job.seed),
            loss=job.task.loss,
            units=job.units,
            seed=job.seed,
            limit=limit_of(job),
            checkpoint=job.checkpoint,
            on_epoch=lambda e: job.on_step(e.epoch, steps(config), f"nll {e.nll:.3f}"),
        )
        return outcome(fit(setting, config, job), job, "")

    return run


def _iterative(score: Any) -> Callable[[Setting, Any, Job], Pruned]:
    def fit(setting: Setting, config: IterativeConfig, job: Job) -> Pruned:
        return iterative(setting, config, score=score, resample=fisher_targets(job.task))

    return fit


_STAGED = functools.partial(
    Method,
    prior="",
    allocation="global threshold, the cost of unread units spent again",
    recovery="refit after each cut with the mask fixed",
    speedup="unstructured",
    when="after",
    data="training",
    budgets=("params", "macs", "bits"),
    probabilistic=False,
)

ITERATIVE_MAGNITUDE = _STAGED(
    name="iterative-magnitude",
    title="Keep the largest weights in stages, with a refit after each",
    source="Han, Pool, Tran and Dally (2015), NeurIPS",
    run=recipe(_iterative("magnitude"), IterativeConfig(), lambda c: c.stages),
    evidence="absolute value of the weight",
    inference="ranking",
)

OBD = _STAGED(
    name="obd-staged",
    title="Optimal brain damage in stages: a diagonal curvature",
    source="LeCun, Denker and Solla (1990), NeurIPS",
    run=recipe(_iterative("obd"), IterativeConfig(), lambda c: c.stages),
    evidence="half the diagonal Fisher curvature times the squared weight",
    inference="ranking",
)

OBS = _STAGED(
    name="obs-staged",
    title="Optimal brain surgeon in stages: K-FAC curvature and compensation",
    source="Hassibi and Stork (1993), NeurIPS; K-FAC: Martens and Grosse (2015), ICML",
    run=recipe(_iterative("obs"), IterativeConfig(), lambda c: c.stages),
    evidence="squared weight over its entry of the inverse curvature",
    inference="ranking, compensation of the kept weights of each row",
)

PDP = Method(
    name="pdp",
    title="Parameter-free differentiable pruning: soft masks from the weights",
    source="Cho, Adya and Naik (2023), NeurIPS",
    run=recipe(lambda s, c, job: pdp(s, c), PDPConfig(), lambda c: c.epochs),
    evidence="posterior slab probability of two Gaussians at the weight",
    prior="two Gaussians, inclusion set by the budget",
    inference="one E-step inside the forward pass",
    allocation="global magnitude threshold",
    recovery="refit of the survivors with the mask fixed",
    speedup="unstructured",
    when="during",
    data="training",
    budgets=("params", "macs", "bits"),
    probabilistic=False,
)
