r"""MCMC references for sparse regressions: what approximations are held against.

The model is ``y = X w + e`` with a support prior and a spike-and-slab prior over the weights. Two
samplers of NumPyro, which share nothing but the model:

``nuts``
    Supports summed out (`probcomp.inference.support_sums`), so NUTS sees a smooth density of the
    weights. Inclusion probabilities by Rao-Blackwell:
    :math:`P(s_n = 1 \mid D) = E_{w \mid D}\, P(s_n = 1 \mid w)`, the inner one exact.
``gibbs``
    Supports sampled one by one (``DiscreteHMCGibbs``), for at most twelve of them.

Both return ArviZ data with the weights, the inclusion probabilities, and the log-likelihood of each
observation, so ``arviz.summary``, ``arviz.plot_trace`` and leave-one-out comparison work on them.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.inference.arviz import from_groups
from probcomp.inference.regression import Data
from probcomp.inference.support_sums import log_sum
from probcomp.priors.base import SupportPrior, check_dims
from probcomp.priors.traced import log_prob_in
from probcomp.priors.weights import SpikeSlabGamma, SpikeSlabGaussian

MOST_EXPLICIT = 12


@dataclass(frozen=True)
class Model:
    """A sparse regression.

    Attributes:
        data: Design, targets, noise precision.
        prior: Belief about the supports.
        weights: Belief about a weight given its support.
        shape: Shape of the supports, such as ``(3, 4)`` for a lattice; by default ``(n,)``. The
            weights lie in it row by row.
    """

    data: Data
    prior: SupportPrior
    weights: SpikeSlabGamma | SpikeSlabGaussian
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if math.prod(self.event) != self.data.x.shape[1]:
            raise InputError(
                f"supports of shape {self.event} do not fit {self.data.x.shape[1]} weights"
            )
        check_dims(self.prior, self.event)
        if isinstance(self.weights, SpikeSlabGaussian) and self.weights.spike == 0:
            raise InputError("a spike of no width cannot be sampled; give spike > 0")

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of the supports."""
        return self.shape or (self.data.x.shape[1],)


@contextmanager
def _in_doubles() -> Iterator[None]:
    """JAX in double precision for a while; otherwise its setting is the user's own."""
    import jax

    here: Any = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")
    with here.enable_x64(True):
        yield


@_in_doubles()
def nuts(
    model: Model, *, chains: int = 4, warmup: int = 500, draws: int = 1000, seed: int = 0
) -> Any:
    """Draws of the weights with the supports summed out.

    Returns:
        ArviZ data: ``posterior`` has ``weight`` and ``inclusion`` [chain, draw, *shape], where an
        inclusion is ``P(s = 1 | w)`` of the draw; ``log_likelihood`` and ``observed_data`` have
        ``y``; ``sample_stats`` has ``diverging``. Attributes of the posterior: the worst ``r_hat``
        and the least ``ess`` over all weights.

    Raises:
        InputError: A prior over whose supports no sum is written.
    """
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS, init_to_value

    x, y, scale = _arrays(model)
    n = x.shape[1]
    log_sum(model.prior, jnp.zeros(model.event))  # refuses what it cannot sum, before any work

    def program() -> None:
        # Flat in the space of weights: the whole prior is the factor.
        w = numpyro.sample("weight", dist.ImproperUniform(dist.constraints.real, (), (n,)))
        on, off = log_densities(model.weights, w)
        summed = log_sum(model.prior, (on - off).reshape(model.event))
        numpyro.factor("prior", off.sum() + summed)
        numpyro.sample("y", dist.Normal(x @ w, scale), obs=y)

    kernel = NUTS(
        program,
        init_strategy=init_to_value(values={"weight": jnp.asarray(_ridge(model))}),
        target_accept_prob=0.9,
        dense_mass=True,
    )
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(seed), extra_fields=("diverging",))
    weight = np.asarray(mcmc.get_samples(group_by_chain=True)["weight"])

    def inclusion(w: Any) -> Any:
        on, off = log_densities(model.weights, w)
        return jax.grad(lambda odds: log_sum(model.prior, odds))((on - off).reshape(model.event))

    flat = weight.reshape(-1, n)
    probability = np.asarray(jax.jit(jax.vmap(inclusion))(flat))
    stats = {"diverging": np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])}
    return _arviz(model, "nuts", weight, probability.reshape(chains, draws, *model.event), stats)


@_in_doubles()
def gibbs(
    model: Model, *, chains: int = 4, warmup: int = 500, draws: int = 2000, seed: int = 0
) -> Any:
    """Draws of weights and supports, one support at a time; for at most twelve.

    A flip moves its weight by the ratio of the two deviations, so where data are sharp chains stay
    where they began: look at several chains, or use `nuts`, which sums the supports out.

    Returns:
        As `nuts`; an ``inclusion`` is the drawn support, 0 or 1.

    Raises:
        InputError: More supports than can be walked through one by one.
    """
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs

    x, y, scale = _arrays(model)
    n = x.shape[1]
    if n > MOST_EXPLICIT:
        raise InputError(f"gibbs walks through at most {MOST_EXPLICIT} supports, got {n}; use nuts")
    prior = model.weights
    if isinstance(prior, SpikeSlabGamma) and prior.a != prior.a_spike:
        raise InputError("gibbs needs equal shapes of slab and spike; use nuts")

    def program() -> None:
        s = numpyro.sample("s", dist.Bernoulli(0.5).expand((n,)).to_event(0))
        # The fair coins above are replaced by the prior.
        odds = log_prob_in(model.prior, s.reshape(model.event).astype(float), jnp)
        numpyro.factor("support", jnp.sum(odds) + n * math.log(2))
        # A unit draw times the deviation: a support may flip without waiting for its weight.
        if isinstance(prior, SpikeSlabGamma):
            unit = numpyro.sample("unit", dist.StudentT(2 * prior.a).expand((n,)))
            wide, narrow = prior.b / prior.a, prior.b_spike / prior.a_spike
        else:
            unit = numpyro.sample("unit", dist.Normal(0, 1).expand((n,)))
            wide, narrow = prior.slab, prior.spike
        w = unit * jnp.sqrt(jnp.where(s == 1, wide, narrow))
        numpyro.deterministic("weight", w)
        numpyro.sample("y", dist.Normal(x @ w, scale), obs=y)

    mcmc = MCMC(
        DiscreteHMCGibbs(NUTS(program, target_accept_prob=0.9)),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    with warnings.catch_warnings():
        # NumPyro says that it enumerates the Gibbs site, which is what was asked for.
        warnings.simplefilter("ignore")
        mcmc.run(jax.random.PRNGKey(seed))
    found = mcmc.get_samples(group_by_chain=True)
    support = np.asarray(found["s"]).astype(float).reshape(chains, draws, *model.event)
    return _arviz(model, "gibbs", np.asarray(found["weight"]), support, {})


def inclusion_probability(data: Any) -> np.ndarray:
    """``P(s = 1 | D)`` from the draws of `nuts` or `gibbs`, in the supports' shape."""
    return np.asarray(data["posterior"]["inclusion"]).mean((0, 1))


def compare_priors(fits: Mapping[str, Any]) -> Any:
    """Leave-one-out comparison of fits to the same data under different priors.

    Args:
        fits: Name to ArviZ data of `nuts` or `gibbs`.

    Returns:
        The table of ``arviz.compare``: expected log predictive density by Pareto-smoothed
        importance sampling (Vehtari, Gelman and Gabry 2017), best first, with stacking weights.

    Raises:
        InputError: Fewer than two fits, or of different observations.
    """
    import arviz

    if len(fits) < 2:
        raise InputError(f"a comparison needs two fits or more, got {sorted(fits)}")
    first, *rest = (np.asarray(fit["observed_data"]["y"]) for fit in fits.values())
    if any(y.shape != first.shape or not np.array_equal(y, first) for y in rest):
        raise InputError("the fits are of different observations and cannot be compared")
    return arviz.compare(dict(fits))


def log_densities(prior: SpikeSlabGamma | SpikeSlabGaussian, weight: Any) -> tuple[Any, Any]:
    """``ln p(w|s=1)`` and ``ln p(w|s=0)`` in ``jax.numpy``, elementwise."""
    import numpyro.distributions as dist

    if isinstance(prior, SpikeSlabGaussian):
        pair = [dist.Normal(0, math.sqrt(v)) for v in (prior.slab, prior.spike)]
    else:
        both = ((prior.a, prior.b), (prior.a_spike, prior.b_spike))
        pair = [dist.StudentT(2 * a, 0, math.sqrt(b / a)) for a, b in both]
    return pair[0].log_prob(weight), pair[1].log_prob(weight)


def _arrays(model: Model) -> tuple[np.ndarray, np.ndarray, float]:
    x, y = model.data.x.double().numpy(), model.data.y.double().numpy()
    return x, y, 1 / math.sqrt(model.data.noise_precision)


def _ridge(model: Model) -> np.ndarray:
    """Where chains start: the posterior mean under the slab alone."""
    prior = model.weights
    variance = prior.slab if isinstance(prior, SpikeSlabGaussian) else prior.b / prior.a
    gram = model.data.gram.numpy() + np.eye(model.data.x.shape[1]) / variance
    return np.linalg.solve(gram, model.data.linear.numpy())


def _arviz(
    model: Model,
    sampler: str,
    weight: np.ndarray,
    inclusion: np.ndarray,
    stats: Mapping[str, np.ndarray],
) -> Any:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    x, y, scale = _arrays(model)
    error = (y - weight @ x.T) / scale
    log_likelihood = -0.5 * (error**2 + math.log(2 * math.pi * scale**2))
    groups: dict[str, dict[str, np.ndarray]] = {
        "posterior": {
            "weight": weight.reshape(*weight.shape[:2], *model.event),
            "inclusion": inclusion,
        },
        "log_likelihood": {"y": log_likelihood},
        "observed_data": {"y": y},
    }
    if stats:
        groups["sample_stats"] = dict(stats)
    attrs = {
        "sampler": sampler,
        "prior": repr(model.prior),
        "weights": repr(model.weights),
        "r_hat": float(np.max(split_gelman_rubin(weight))),
        "ess": float(np.min(effective_sample_size(weight))),
    }
    return from_groups(groups, attrs=attrs)
