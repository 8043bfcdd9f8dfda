"""Baselines that train as recipes, and the records of those with a prior of their own."""

from collections.abc import Callable
from typing import Any

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.baselines import (
    GroupConfig,
    L0Config,
    Pruned,
    SBPConfig,
    Schedule,
    Setting,
    SparseVDConfig,
    SpikeSlabConfig,
    VIBConfig,
    bc_ghs,
    bc_gnj,
    l0,
    sbp,
    sparse_vd,
    spike_slab,
    vibnet,
)
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import Method
from probcomp.recipes.pricing import limit_of

SCORES = "This method gives a decision and scores, and no probabilities."


def recipe(
    fit: Callable[[Setting, Any, Job], Pruned],
    default: Any,
    prior: str,
    steps: Callable[[Any], int] = lambda config: config.epochs,
) -> Callable[[Job], Outcome]:
    """The ``run`` of a method that trains, whatever its prior.

    Args:
        fit: Trains and prunes.
        default: Settings where the job has none; a job's own must be of the same type.
        prior: The prior in words, or "" for a method that has none.
        steps: Length of the progress bar.
    """

    def run(job: Job) -> Outcome:
        if job.prior is not None:
            has = f"its own prior ({prior})" if prior else "no support prior"
            raise InputError(f"this method has {has}; leave prior out")
        config = job.config if job.config is not None else default
        if type(config) is not type(default):
            raise InputError(
                f"config must be a {type(default).__name__}, got {type(config).__name__}"
            )
        setting = Setting(
            model=job.model,
            batches=Batches(
                job.train,
                batch_size=config.batch_size,
                seed=job.seed,
                terms=job.task.terms(job.train),
            ),
            loss=job.task.loss,
            units=job.units,
            seed=job.seed,
            limit=limit_of(job),
            checkpoint=job.checkpoint,
            on_epoch=lambda e: job.on_step(e.epoch, steps(config), f"nll {e.nll:.3f}"),
        )
        return outcome(fit(setting, config, job), job, prior)

    return run


def outcome(found: Pruned, job: Job, prior: str) -> Outcome:
    """The result of a baseline as the recipe's outcome."""
    meta = {**found.meta, **found.posterior.meta, "seed": job.seed, "prior": prior}
    meta |= {"samples": len(Batches(job.train).tensors[0]), "budget": str(job.budget)}
    posterior = type(found.posterior)(found.posterior.weights, found.posterior.units, meta)
    return Outcome(
        model=found.model,
        masks=found.masks,
        keep=found.keep,
        posterior=posterior,
        prior=prior,
        history=found.history,
        warnings=() if posterior.weights or posterior.units else (SCORES,),
    )


def method(
    name: str,
    title: str,
    source: str,
    fit: Callable[[Setting, Any], Pruned],
    default: Schedule,
    *,
    prior: str,
    evidence: str,
    inference: str,
    structured: bool,
    probabilistic: bool = False,
) -> Method:
    """A record with what all variational baselines share."""
    return Method(
        name=name,
        title=title,
        source=source,
        run=recipe(lambda setting, config, job: fit(setting, config), default, prior),
        evidence=evidence,
        prior=prior,
        inference=inference,
        allocation="the method's own threshold, moved until a budget fits",
        recovery="none",
        speedup="structured" if structured else "unstructured",
        when="during",
        data="training",
        budgets=("params", "macs", "bits"),
        probabilistic=probabilistic,
        own_rule=True,
    )


SPARSE_VD = method(
    "sparse-vd",
    "Sparse variational dropout: a dropout rate for each weight",
    "Molchanov, Ashukha and Vetrov (2017), ICML",
    sparse_vd,
    SparseVDConfig(),
    prior="log-uniform over each weight",
    evidence="dropout rate of the weight's posterior, ln(sigma^2 / mu^2)",
    inference="variational, local reparameterisation",
    structured=False,
)

BC_GNJ = method(
    "bc-gnj",
    "Bayesian compression, normal-Jeffreys scales on groups",
    "Louizos, Ullrich and Welling (2017), NeurIPS",
    bc_gnj,
    GroupConfig(),
    prior="log-uniform scale for each unit, Gaussian weights",
    evidence="dropout rate of the scale's posterior",
    inference="variational, local reparameterisation",
    structured=True,
)

BC_GHS = method(
    "bc-ghs",
    "Bayesian compression, horseshoe scales on groups",
    "Louizos, Ullrich and Welling (2017), NeurIPS",
    bc_ghs,
    GroupConfig(),
    prior="half-Cauchy scale for each unit and each layer, Gaussian weights",
    evidence="log-mode of the scale's posterior",
    inference="variational, local reparameterisation",
    structured=True,
)

L0 = method(
    "l0",
    "L0 regularisation by hard concrete gates on groups",
    "Louizos, Welling and Kingma (2018), ICLR",
    l0,
    L0Config(),
    prior="a price for each weight that stays",
    evidence="log-odds of the group's hard concrete gate",
    inference="stochastic gates, hard concrete relaxation",
    structured=True,
)

SBP = method(
    "sbp",
    "Structured Bayesian pruning: log-normal noise on units",
    "Neklyudov, Molchanov, Ashukha and Vetrov (2017), NeurIPS",
    sbp,
    SBPConfig(),
    prior="truncated log-uniform scale for each unit",
    evidence="signal-to-noise ratio of the unit's scale",
    inference="variational, truncated log-normal",
    structured=True,
)

VIBNET = method(
    "vibnet",
    "Variational information bottleneck on units",
    "Dai, Zhu, Guo and Wipf (2018), ICML",
    vibnet,
    VIBConfig(),
    prior="zero-mean Gaussian scale for each unit, its variance at the best value",
    evidence="signal-to-noise ratio of the unit's scale",
    inference="variational information bottleneck",
    structured=True,
)

SPIKE_SLAB = method(
    "spike-slab-vb",
    "Spike-and-slab variational inference over each weight",
    "Bai, Song and Cheng (2020), NeurIPS",
    spike_slab,
    SpikeSlabConfig(),
    prior="Gaussian slab or zero for each weight, inclusion from the theory",
    evidence="posterior log-odds of inclusion",
    inference="variational, Gumbel-softmax supports",
    structured=False,
    probabilistic=True,
)
