"""Several tasks at once: what one network and data set taught about the diagram helps the next.

Every parameter of the regime model is a transform of a standard normal number. For task k they are

    u_k = sqrt(1 - r^2) U + r v_k,      U, v_k ~ N(0, 1),

with one r for each block of parameters: 0, tasks share the parameter; 1, they have nothing in
common. Each task keeps, by itself, the prior it has alone. U is integrated out: the u_k of a
parameter are normal with correlation 1 - r^2. The r are stated, not learnt: with a few tasks the
data hardly bear on them, and sampling them gives a funnel on which chains get stuck.

Loads of different tasks are standardised by their own runs, so positions are shared in units of
what was explored, not in densities.

All tasks run through one program, padded to the size of the largest: compiling it costs what a
single task costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probcomp.errors import InputError, unknown
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.fit import RegimeModel
from probcomp.regime.knobs import Array
from probcomp.regime.sampler import Convergence, model_data, sample_until_converged
from probcomp.regime.table import RunTable, read_runs

BLOCKS: dict[str, tuple[str, ...]] = {
    "place": ("x0", "t0"),
    "shape": ("s_x", "s_t", "kappa", "s_S", "warp"),
    "effect": (
        *("rise_I", "cold_I", "rise_S", "deep_S", "cool_I", "heat_A"),
        *("error", "barrier", "dissimilarity"),
    ),
    "noise": ("noise", "seed_noise", "seed_slope"),
}
"""Parameters that share one r."""

SPREAD = {"place": 0.6, "shape": 0.4, "effect": 0.5, "noise": 0.4}
"""r of each block: the place of the boundaries differs most between tasks, their shape least."""


PER_CELL = ("x", "c", "z", "floored", "measured", "valid", "replicates", "dof", "within")
"""Data of a task with one row a cell; the others are the same whatever its size."""


@dataclass(frozen=True)
class TaskDraws:
    """The draws of one task, [chains, draws, size], as `RegimeModel` reads them."""

    u: Array
    diverging: NDArray[np.bool_]

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Array]:
        """Draws by site, [draws, size] or [chains, draws, size]."""
        return {"u": self.u if group_by_chain else self.u.reshape(-1, self.u.shape[-1])}

    def get_extra_fields(self) -> dict[str, NDArray[np.bool_]]:
        """``diverging``, [chains draws]; a trajectory is one of all tasks."""
        return {"diverging": self.diverging.reshape(-1)}


@dataclass(frozen=True)
class Hierarchy:
    """Tasks fitted together.

    Attributes:
        tasks: A model a task, by name; each predicts and advises by itself.
        spread: r of each block: how far tasks may differ, 0 to 1.
        convergence: Of all parameters of all tasks.
    """

    tasks: dict[str, RegimeModel]
    spread: dict[str, float]
    convergence: Convergence

    @classmethod
    def fit(
        cls,
        tables: Mapping[str, RunTable | Mapping[str, Any]],
        *,
        knobs: Mapping[str, Sequence[str]] | None = None,
        spread: Mapping[str, float] | None = None,
        seed: int = 0,
        warmup: int = 500,
        samples: int = 500,
    ) -> "Hierarchy":
        """Fit two or more tables together; cost grows with their number.

        Args:
            tables: Run tables by task name, each with one knob; one with few runs may lean on
                the others, but must have as many as a fit alone needs.
            knobs: The knob columns of each task; found by name otherwise.
            spread: r of blocks, in place of those in `SPREAD`.

        Raises:
            InputError: fewer than two tasks, one with several knobs, or an unknown block.
        """
        if len(tables) < 2:
            raise InputError(f"{len(tables)} task; a hierarchy needs two or more.")
        for name, value in (spread or {}).items():
            if name not in SPREAD:
                raise unknown("block of parameters", name, SPREAD)
            if not 0 < value < 1:
                raise InputError(f"spread of {name!r} is {value}; it must lie in (0, 1).")
        chosen = {**SPREAD, **(spread or {})}
        runs = {n: read_runs(t, knobs=(knobs or {}).get(n)) for n, t in tables.items()}
        several = [name for name, table in runs.items() if len(table.knobs) > 1]
        if several:
            raise InputError(f"task {several[0]!r} has several knobs; tasks are pooled over one.")
        places = {name: Coordinates.of(table) for name, table in runs.items()}
        data = stacked([model_data(table, places[name])[0] for name, table in runs.items()])
        roots = correlation_roots(len(runs), chosen)
        chains, convergence = sample_until_converged(
            _program, (data, roots), seed=seed, warmup=warmup, draws=samples
        )
        drawn = np.asarray(chains.get_samples(group_by_chain=True)["w"])
        each = np.einsum("pij,cdjp->cdip", roots, drawn)
        models = {}
        for k, (name, table) in enumerate(runs.items()):
            draws = TaskDraws(each[:, :, k], chains.diverging)
            model = RegimeModel(table, places[name], draws, convergence, None, seed)
            models[name] = model.with_processes()
        return cls(models, chosen, convergence)


def correlation_roots(tasks: int, spread: Mapping[str, float]) -> Array:
    """Cholesky factor, for each parameter, of the correlation over tasks, [size, tasks, tasks]."""
    from probcomp.regime.model import PRIOR

    roots = []
    for name, (count, *_) in PRIOR.items():
        block = next(block for block, members in BLOCKS.items() if name in members)
        shared = 1 - spread[block] ** 2
        root = np.linalg.cholesky(np.full((tasks, tasks), shared) + (1 - shared) * np.eye(tasks))
        roots += [root] * count
    return np.stack(roots)


def stacked(datas: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """The data of all tasks, [tasks, ...], with rows that count for nothing where one has fewer."""
    most = max(len(data["x"]) for data in datas)

    def padded(name: str, value: Array) -> Array:
        if name not in PER_CELL:
            return np.asarray(value)
        # Ones keep what a padding row is divided by or takes the logarithm of away from zero.
        fill = 1 if name in ("measured", "replicates") else 0
        widths = [(0, most - len(value)), *[(0, 0)] * (value.ndim - 1)]
        return np.pad(value, widths, constant_values=fill)

    return {name: np.stack([padded(name, data[name]) for data in datas]) for name in datas[0]}


def _program(data: Mapping[str, Any], roots: Array) -> None:
    """The NumPyro model of all tasks."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from probcomp.regime import model

    count = len(data["x"])
    w = numpyro.sample("w", dist.Normal(0, 1).expand([count, model.size(1)]).to_event(2))
    u = jnp.einsum("pij,jp->ip", jnp.asarray(roots), w)

    def one(row: Any, task: Any) -> Any:
        theta = model.parameters(row, (False,))
        return model.log_likelihood(theta, task).sum() + model.spread_log_likelihood(theta, task)

    numpyro.factor("tasks", jax.vmap(one)(u, dict(data)).sum())
