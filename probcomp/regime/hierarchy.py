"""Several tasks at once: what one network and data set taught about the diagram helps the next.

Every parameter of the regime model is a transform of a standard normal number. For task k they are

    u_k = sqrt(1 - r^2) U + r v_k,      U, v_k ~ N(0, 1),  0 < r < 1,

with one r for each block of parameters: r near 0, tasks share the parameter; r near 1, they have
nothing in common. Each task keeps, by itself, the prior it has alone. Loads of different tasks are
standardised by their own runs, so positions are shared in units of what was explored, not in
densities; a width and a density may be pooled, as far as r says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.fit import RegimeModel
from probcomp.regime.knobs import Array
from probcomp.regime.sampler import MAX_RHAT, Convergence, gates, model_data, run_nuts, shape_of
from probcomp.regime.table import RunTable, read_runs

BLOCKS: dict[str, tuple[str, ...]] = {
    "place": ("x0", "t0"),
    "shape": ("s_x", "s_t", "kappa", "s_S", "warp"),
    "effect": ("rise_I", "rise_S", "cool_I", "heat_A", "error", "barrier", "dissimilarity"),
    "noise": ("noise", "seed_noise"),
}
"""Parameters that share one r."""


@dataclass(frozen=True)
class TaskDraws:
    """The draws of one task, as `RegimeModel` reads them."""

    u: Array

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Array]:
        """Draws by site, [draws, size] or [chains, draws, size]."""
        return {"u": self.u if group_by_chain else self.u.reshape(-1, self.u.shape[-1])}

    def get_extra_fields(self) -> dict[str, Array]:
        """No field of the sampler is kept for single tasks."""
        return {"diverging": np.zeros(self.u.shape[0] * self.u.shape[1], bool)}


@dataclass(frozen=True)
class Hierarchy:
    """Tasks fitted together.

    Attributes:
        tasks: A model a task, by name; each predicts and advises by itself.
        spread: Draws of r for each block, [draws]: how far tasks differ, 0 to 1.
        convergence: Of all parameters of all tasks.
    """

    tasks: dict[str, RegimeModel]
    spread: dict[str, Array]
    convergence: Convergence

    @classmethod
    def fit(
        cls,
        tables: Mapping[str, RunTable | Mapping[str, Any]],
        *,
        knobs: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
        warmup: int = 500,
        samples: int = 500,
    ) -> "Hierarchy":
        """Fit two or more tables together; cost grows with their number.

        Args:
            tables: Run tables by task name, each with one knob.
            knobs: The knob columns of each task; found by name otherwise.

        Raises:
            InputError: fewer than two tasks, or one with several knobs.
        """
        if len(tables) < 2:
            raise InputError(f"{len(tables)} task; a hierarchy needs two or more.")
        runs = {n: read_runs(t, knobs=(knobs or {}).get(n)) for n, t in tables.items()}
        several = [name for name, table in runs.items() if len(table.knobs) > 1]
        if several:
            raise InputError(f"task {several[0]!r} has several knobs; tasks are pooled over one.")
        places = {name: Coordinates.of(table) for name, table in runs.items()}
        datas = [model_data(table, places[name])[0] for name, table in runs.items()]
        shapes = [shape_of(table, places[name]) for name, table in runs.items()]
        mcmc = run_nuts(
            _program, (datas, shapes), seed=seed, warmup=warmup, draws=samples, attempt=0
        )
        convergence = gates(mcmc)
        drawn = mcmc.get_samples(group_by_chain=True)
        r = _ratios(np.asarray(drawn["r"]))
        shared = np.asarray(drawn["shared"])
        models = {}
        for k, (name, table) in enumerate(runs.items()):
            each = _mixed(shared, np.asarray(drawn["own"])[..., k, :], r)
            model = RegimeModel(table, places[name], TaskDraws(each), convergence, None, seed)
            models[name] = model.with_processes()
        spread = {name: r[..., k].reshape(-1) for k, name in enumerate(BLOCKS)}
        return cls(models, spread, convergence)

    def __str__(self) -> str:
        far = ", ".join(f"{name} {np.median(r):.2f}" for name, r in self.spread.items())
        return f"{len(self.tasks)} tasks, {self.convergence}; r: {far} (R-hat limit {MAX_RHAT})"


def _columns() -> Array:
    """Block of each entry of the parameter vector of one knob."""
    from probcomp.regime.model import PRIOR

    names = list(BLOCKS)
    return np.concatenate(
        [
            np.full(count, next(k for k, b in enumerate(names) if name in BLOCKS[b]))
            for name, (count, *_) in PRIOR.items()
        ]
    ).astype(int)


def _ratios(raw: Any) -> Any:
    """r of standard normal numbers: median .45, 90 % between .1 and .85."""
    return 1 / (1 + np.exp(0.2 - 1.2 * raw))


def _mixed(shared: Any, own: Any, r: Any) -> Any:
    """Parameter vectors of a task; arrays of numpy or jax."""
    each = r[..., _columns()]
    return (1 - each**2) ** 0.5 * shared + each * own


def _program(datas: Sequence[Any], shapes: Sequence[Any]) -> None:
    """The NumPyro model of all tasks."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from probcomp.regime import model

    size = model.size(1)
    r = numpyro.sample("r", dist.Normal(0, 1).expand([len(BLOCKS)]).to_event(1))
    ratios = 1 / (1 + jnp.exp(0.2 - 1.2 * r))
    shared = numpyro.sample("shared", dist.Normal(0, 1).expand([size]).to_event(1))
    own = numpyro.sample("own", dist.Normal(0, 1).expand([len(datas), size]).to_event(2))
    for k, (data, (physical, scales)) in enumerate(zip(datas, shapes)):
        theta = model.parameters(_mixed(shared, own[k], ratios), physical)
        likelihood = model.log_likelihood(theta, data, scales).sum()
        numpyro.factor(f"task{k}", likelihood + model.spread_log_likelihood(theta, data))
