"""NUTS on the regime model, with the gates a fit must pass before it may speak."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probcomp.regime.coordinates import Coordinates
from probcomp.regime.knobs import Array
from probcomp.regime.table import RunTable

MAX_RHAT, MIN_ESS = 1.02, 200.0
CHAINS = 4

ROUNDS = 4
"""Draws kept are at most this many times those asked for, also by chains that started anew."""

DEPTH = (7, 8)
"""Doublings of a trajectory at most, while adapting and after. Of the first steps, made before the
scales are known, nearly all reach the limit, and each further doubling doubles their cost."""


@dataclass(frozen=True)
class Convergence:
    """Worst split R-hat and least effective sample size over all parameters of the model.

    Chains that go on are looked at up to ``ROUNDS`` times and stop at the first look that passes:
    "converged" then means "passed at one of several looks", which luck does more often than a
    single one. More ``draws`` than were asked for tell of more than one look or start.
    """

    rhat: float
    ess: float
    divergences: int
    draws: int

    @property
    def ok(self) -> bool:
        """Whether the draws may be used: R-hat <= 1.02, ESS >= 200, at most 1 % divergences."""
        return bool(self.rhat <= MAX_RHAT and self.ess >= MIN_ESS and not self.diverge)

    @property
    def diverge(self) -> bool:
        """Whether more than 1 % of the trajectories diverged."""
        return self.divergences > 0.01 * self.draws

    def __str__(self) -> str:
        state = "converged" if self.ok else "not converged"
        return (
            f"{state}: R-hat {self.rhat:.3f} (at most {MAX_RHAT}), ESS {self.ess:.0f} (at least "
            f"{MIN_ESS:.0f}), {self.divergences} divergences in {self.draws} draws"
        )


def model_data(table: RunTable, coordinates: Coordinates) -> tuple[dict[str, Any], NDArray[Any]]:
    """Cell means, replicate counts and the spread within cells; and one row index for each cell."""
    z = coordinates.observables(table)
    cells = table.cells
    count = np.bincount(cells)
    first = np.array([np.flatnonzero(cells == cell)[0] for cell in range(len(count))])
    mean = np.stack([np.bincount(cells, z[:, d]) / count for d in range(3)], 1)
    square = (z - mean[cells]) ** 2
    within = np.stack([np.bincount(cells, square[:, d]) for d in range(3)], 1)
    floored = np.zeros(mean.shape, bool)
    floored[:, 1] = mean[:, 1] <= coordinates.censor + 1e-9
    # Runs at the floor show no spread, which is not to say that they agree.
    at_floor = np.bincount(cells, z[:, 1] <= coordinates.censor + 1e-9) > 0
    dof = np.tile(count[:, None] - 1.0, (1, 3))
    dof[at_floor, 1] = within[at_floor, 1] = 0.0
    known = coordinates.measured(table)[first] ** 2
    if len(z) > len(count):
        # The spread of repeated runs holds their error of measurement already. A run that stands
        # alone keeps what it states: its error may be larger than that of those repeated.
        known[(count > 1)[:, None] | (table.measured[first] == 0)] = 0.0
    if np.ptp(z[:, 2]) == 0:
        # Rounded to one value everywhere, the similarity tells of no regime; its noise would fall
        # to nothing, and chains get stuck where all cells happen to lie in one regime.
        known[:, 2] = 1.0
    data = {
        "x": coordinates.load(table.load[first]),
        "c": coordinates.settings(table.settings[first]),
        "ratios": schedule_ratios(coordinates),
        "z": mean,
        "floored": floored,
        "censor": np.float64(coordinates.censor),
        "measured": known,
        "valid": np.ones((len(count), 1), bool),
        "replicates": count.astype(float),
        "dof": dof,
        "within": within,
    }
    return data, first


def physical_knobs(table: RunTable) -> tuple[bool, ...]:
    """What the model must know before it sees data: how many knobs, and which physics fixes."""
    return tuple(knob.physical for knob in table.knobs)


def schedule_ratios(coordinates: Coordinates) -> Array:
    """Largest over smallest value of each knob that bends along a schedule, else 0, [knobs]."""
    return np.array(
        [
            high / low if knob.scale == "schedule" else 0.0
            for knob, low, high in zip(coordinates.knobs, coordinates.low, coordinates.high)
        ]
    )


@dataclass(frozen=True)
class Chains:
    """Draws of several rounds of the same chains, read as NumPyro's sampler gives its own.

    Attributes:
        sites: Draws by site, [chains, draws, ...].
        diverging: Which draws ended a divergent trajectory, [chains, draws].
    """

    sites: Mapping[str, Array]
    diverging: NDArray[np.bool_]

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Array]:
        """Draws by site, [chains, draws, ...] or [chains draws, ...]."""
        if group_by_chain:
            return dict(self.sites)
        return {name: v.reshape(-1, *v.shape[2:]) for name, v in self.sites.items()}

    def get_extra_fields(self) -> dict[str, NDArray[np.bool_]]:
        """``diverging``, [chains draws]."""
        return {"diverging": self.diverging.reshape(-1)}

    @staticmethod
    def of(mcmc: Any) -> "Chains":
        """What a sampler holds now."""
        sites = {n: np.asarray(v) for n, v in mcmc.get_samples(group_by_chain=True).items()}
        chains = len(next(iter(sites.values())))
        diverging = np.asarray(mcmc.get_extra_fields()["diverging"])
        return Chains(sites, diverging.reshape(chains, -1))

    def then(self, more: "Chains") -> "Chains":
        """These draws and the next ones of the same chains."""
        sites = {n: np.concatenate([v, more.sites[n]], 1) for n, v in self.sites.items()}
        return Chains(sites, np.concatenate([self.diverging, more.diverging], 1))


def sample(
    data: Mapping[str, Any],
    physical: tuple[bool, ...],
    *,
    seed: int = 0,
    warmup: int = 500,
    draws: int = 700,
) -> tuple[Chains, Convergence]:
    """Draws of the regime model, and whether they may be used; see `sample_until_converged`."""
    from probcomp.regime.model import regime_model

    program = partial(regime_model, physical=physical)
    return sample_until_converged(program, (dict(data),), seed=seed, warmup=warmup, draws=draws)


def sample_until_converged(
    program: Any, arguments: tuple[Any, ...], *, seed: int, warmup: int, draws: int
) -> tuple[Chains, Convergence]:
    """Four chains of ``draws``, gone on with where a gate fails, at most ``ROUNDS`` times that.

    Where the boundary of a regime lies outside of the runs, its place moves along a ridge that
    takes thousands of draws to walk. Chains that go on keep all draws made so far: those of a chain
    that had not found the region yet, too, which later draws must outweigh before the gates pass.
    Their metric leans on the draws (`pooled_metric`) in place of their own warm-up alone. Where
    more than a hundredth of the trajectories diverges, going on would not help: the chains start
    anew, once, with smaller steps and twice the length, and earlier draws are dropped. They may
    then go on to the same total: ``ROUNDS * draws`` a chain are kept, twice that made, at most.
    """
    for attempt in range(2):
        longer = 1 + attempt
        mcmc = run_nuts(
            program, arguments, seed=seed, warmup=warmup * longer, draws=draws * longer,
            attempt=attempt,
        )  # fmt: skip
        chains = Chains.of(mcmc)
        convergence = gates(chains)
        for _ in range(ROUNDS // longer - 1):
            if convergence.ok or convergence.diverge:
                break
            go_on(mcmc, arguments, chains)
            chains = chains.then(Chains.of(mcmc))
            convergence = gates(chains)
        if not convergence.diverge:
            break
    return chains, convergence


def go_on(mcmc: Any, arguments: tuple[Any, ...], chains: Chains) -> None:
    """As many draws again, from where the chains stand, in the metric that their draws suggest.

    The step size stays that of the warm-up.
    """
    import jax.numpy as jnp

    state = mcmc.last_state
    (values,) = chains.sites.values()  # the programs sampled here have one site
    adapt = state.adapt_state
    ((key, old),) = adapt.inverse_mass_matrix.items()
    cover = pooled_metric(values.reshape(*values.shape[:2], -1), np.asarray(old))
    if cover is not None:
        root = np.linalg.cholesky(np.linalg.inv(cover))
        adapt = adapt._replace(
            inverse_mass_matrix={key: jnp.asarray(cover)},
            mass_matrix_sqrt={key: jnp.asarray(root)},
            mass_matrix_sqrt_inv={key: jnp.asarray(np.linalg.inv(root))},
        )
    mcmc.post_warmup_state = state._replace(adapt_state=adapt)
    mcmc.run(state.rng_key, *arguments, extra_fields=("diverging",))


def pooled_metric(values: Array, old: Array) -> Array | None:
    """A covariance for chains that go on, [chains, size, size]; None: keep the old one.

    ``(n C + size old) / (n + size)``: C is the covariance of the draws within chains, averaged over
    chains, so that chains which lie apart do not stretch it along their gap; n its effective
    number of draws, the least over coordinates, so that few or slow draws move little. Shrunk is
    toward the metric of the warm-up, with the weight of ``size`` draws: those of the last window
    know the scales already.

    Args:
        values: Draws, [chains, draws, size].
        old: Inverse mass matrix of each chain, [chains, size, size].
    """
    from numpyro.diagnostics import effective_sample_size

    _, count, size = values.shape
    with np.errstate(all="ignore"):
        each = np.array([effective_sample_size(chain[None]) for chain in values])
    # Draws that alternate have a size below zero or above their count; those that stand still none.
    each = np.where((each <= 0) | (each > count), count, np.nan_to_num(each))
    n = float(each.sum(0).min())
    within = np.mean([np.cov(chain, rowvar=False).reshape(size, size) for chain in values], 0)
    found = (n * within + size * old) / (n + size)
    if not np.all(np.isfinite(found)) or np.linalg.eigvalsh(found).min() <= 0:
        return None
    return found


def run_nuts(
    program: Any, arguments: tuple[Any, ...], *, seed: int, warmup: int, draws: int, attempt: int
) -> Any:
    """Four chains of NUTS on a NumPyro program; the second attempt takes smaller steps.

    The arguments are traced, so that tables of one shape share one compiled program.

    Turns on double precision in JAX, for the whole process and for good: arrays that the caller
    makes later are float64 where they were float32. A caller who minds runs it in a process of
    its own.
    """
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS, init_to_uniform

    numpyro.enable_x64()
    kernel = NUTS(
        program,
        dense_mass=True,
        max_tree_depth=DEPTH,
        target_accept_prob=(0.9, 0.97)[attempt],
        init_strategy=init_to_uniform(radius=0.5),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mcmc = MCMC(
            kernel,
            num_warmup=warmup,
            num_samples=draws,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
            jit_model_args=True,
        )
        mcmc.run(jax.random.PRNGKey(seed), *arguments, extra_fields=("diverging",))
    return mcmc


def gates(mcmc: Any) -> Convergence:
    """R-hat and effective size of every coordinate of every site."""
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    sites = mcmc.get_samples(group_by_chain=True)
    u = np.concatenate([np.asarray(v).reshape(*v.shape[:2], -1) for v in sites.values()], -1)
    with np.errstate(all="ignore"):
        rhat, ess = split_gelman_rubin(u), effective_sample_size(u)
    return Convergence(
        float(np.max(np.where(np.isfinite(rhat), rhat, np.inf))),
        float(np.min(np.where(np.isfinite(ess), ess, 0.0))),
        int(np.asarray(mcmc.get_extra_fields()["diverging"]).sum()),
        u.shape[0] * u.shape[1],
    )


def posterior_surfaces(
    u: Array, physical: tuple[bool, ...], ratios: Array, x: Array, c: Array
) -> dict[str, Array]:
    """Regime probabilities and channel means of each draw: [draws, rows, 3]; t: [draws, rows]."""
    found = _compiled()["surfaces"](u, x, c, ratios, physical)
    return {name: np.asarray(value) for name, value in found.items()}


def pointwise_log_likelihood(
    u: Array, data: Mapping[str, Any], physical: tuple[bool, ...]
) -> Array:
    """Log density of each cell and channel under each draw, [draws, cells, 3]."""
    return np.asarray(_compiled()["log_likelihood"](u, dict(data), physical))


def posterior_parameters(u: Array, physical: tuple[bool, ...]) -> dict[str, Array]:
    """Named parameters of each draw."""
    named = _compiled()["parameters"](u, physical)
    return {name: np.asarray(value) for name, value in named.items()}


@cache
def _compiled() -> dict[str, Any]:
    """Functions of all draws at once, compiled once a shape."""
    import jax
    import numpyro

    from probcomp.regime import model

    numpyro.enable_x64()

    def surfaces(row: Any, x: Any, c: Any, ratios: Any, physical: tuple[bool, ...]) -> Any:
        theta = model.parameters(row, physical)
        t = model.temperature(theta, c, ratios)
        p, mean = model.means(theta, x, t)
        return {"p": p, "mean": mean, "t": t}

    def log_likelihood(row: Any, data: Any, physical: tuple[bool, ...]) -> Any:
        return model.log_likelihood(model.parameters(row, physical), data)

    def every(function: Any, others: int) -> Any:
        """Over draws; the last argument is static."""

        def run(u: Any, *arguments: Any) -> Any:
            return jax.vmap(lambda row: function(row, *arguments))(u)

        return jax.jit(run, static_argnums=others + 1)

    return {
        "surfaces": every(surfaces, 3),
        "log_likelihood": every(log_likelihood, 1),
        "parameters": every(model.parameters, 0),
    }
