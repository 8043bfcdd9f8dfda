"""Methods that cut to a budget while they train: staged pruning, and PDP."""

import functools
from collections.abc import Callable
from typing import Any

from probcomp.inference.baselines import (
    IterativeConfig,
    PDPConfig,
    Pruned,
    Setting,
    iterative,
    pdp,
)
from probcomp.recipes.fisher_targets import fisher_targets
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.variational import recipe


def _recipe(score: Any) -> Callable[[Job], Outcome]:
    def fit(setting: Setting, config: IterativeConfig, job: Job) -> Pruned:
        return iterative(setting, config, score=score, resample=fisher_targets(job.task))

    return recipe(fit, IterativeConfig(), "", lambda config: config.stages)


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
    run=_recipe("magnitude"),
    evidence="absolute value of the weight",
    inference="ranking",
)

OBD = _STAGED(
    name="obd-staged",
    title="Optimal brain damage in stages: a diagonal curvature",
    source="LeCun, Denker and Solla (1990), NeurIPS",
    run=_recipe("obd"),
    evidence="half the diagonal Fisher curvature times the squared weight",
    inference="ranking",
)

OBS = _STAGED(
    name="obs-staged",
    title="Optimal brain surgeon in stages: K-FAC curvature and compensation",
    source="Hassibi and Stork (1993), NeurIPS; K-FAC: Martens and Grosse (2015), ICML",
    run=_recipe("obs"),
    evidence="squared weight over its entry of the inverse curvature",
    inference="ranking, compensation of the kept weights of each row",
)

PDP = Method(
    name="pdp",
    title="Parameter-free differentiable pruning: soft masks from the weights",
    source="Cho, Adya and Naik (2023), NeurIPS",
    run=recipe(lambda setting, config, job: pdp(setting, config), PDPConfig(), ""),
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
