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


@dataclass(frozen=True)
class Convergence:
    """Worst split R-hat and least effective sample size over all parameters of the model."""

    rhat: float
    ess: float
    divergences: int
    draws: int

    @property
    def ok(self) -> bool:
        """Whether the draws may be used: R-hat <= 1.02, ESS >= 200, at most 1 % divergences."""
        few = self.divergences <= 0.01 * self.draws
        return bool(self.rhat <= MAX_RHAT and self.ess >= MIN_ESS and few)

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
    within = ((z - mean[cells]) ** 2).sum(0)
    floored = np.zeros(mean.shape, bool)
    floored[:, 1] = mean[:, 1] <= coordinates.censor + 1e-9
    known = coordinates.measured(table)[first] ** 2
    if len(z) > len(count):
        # The spread of repeated runs holds their error of measurement already. A run that stands
        # alone keeps what it states: its error may be larger than that of those repeated.
        known[(count > 1)[:, None] | (table.measured[first] == 0)] = 0.0
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
        "dof": np.full(3, float(len(z) - len(count))),
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


def sample(
    data: Mapping[str, Any],
    physical: tuple[bool, ...],
    *,
    seed: int = 0,
    warmup: int = 500,
    draws: int = 700,
) -> tuple[Any, Convergence]:
    """Run four chains; once more with twice the length if a gate fails. Returns the MCMC object."""
    from probcomp.regime.model import regime_model

    program = partial(regime_model, physical=physical)
    for attempt in range(2):
        mcmc = run_nuts(
            program, (dict(data),), seed=seed,
            warmup=warmup * (1 + attempt), draws=draws * (1 + attempt), attempt=attempt,
        )  # fmt: skip
        convergence = gates(mcmc)
        if convergence.ok:
            break
    return mcmc, convergence


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
        max_tree_depth=8,
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
