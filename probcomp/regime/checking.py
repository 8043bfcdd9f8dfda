"""Criticism of a regime fit with ArviZ: its groups, leave-one-out scores, predictive checks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.coordinates import CHANNELS
from probcomp.regime.knobs import Array
from probcomp.regime.model import noise_scale
from probcomp.regime.sampler import model_data

if TYPE_CHECKING:
    from probcomp.regime.fit import RegimeModel

BAD_K = 0.7
"""Pareto shape above which importance sampling is not trusted (Vehtari et al. 2017)."""


def to_arviz(model: "RegimeModel", *, seed: int = 0) -> Any:
    """The fit as ArviZ data, for its diagnostics and plots.

    Groups: ``posterior`` (named parameters), ``sample_stats`` (``diverging``), ``log_likelihood``
    (``cells``: all channels of a cell together), ``posterior_predictive`` and ``observed_data``
    (``z_error``, ``z_barrier``, ``z_dissimilarity``, standardised).
    """
    from probcomp.inference.arviz import from_groups

    chains = np.asarray(model.mcmc.get_samples(group_by_chain=True)["u"]).shape[0]

    def by_chain(values: Any) -> Array:
        values = np.asarray(values)
        return values.reshape(chains, -1, *values.shape[1:])

    drawn, seen = predictive_draws(model, seed=seed)
    names = [f"z_{channel}" for channel in CHANNELS]
    diverging = model.mcmc.get_extra_fields()["diverging"]
    return from_groups(
        {
            "posterior": {name: by_chain(value) for name, value in model.parameters.items()},
            "sample_stats": {"diverging": by_chain(diverging)},
            "log_likelihood": {"cells": by_chain(model.log_likelihood().sum(-1))},
            "posterior_predictive": {n: by_chain(drawn[:, :, d]) for d, n in enumerate(names)},
            "observed_data": {n: seen[:, d] for d, n in enumerate(names)},
        },
        attrs={"loads": model.table.load_name, "converged": str(model.convergence.ok)},
    )


def predictive_draws(model: "RegimeModel", *, seed: int = 0) -> tuple[Array, Array]:
    """Replicated cell means under each draw [draws, cells, 3], and those observed [cells, 3].

    The barrier is censored at its floor in both.
    """
    data, _ = model_data(model.table, model.coordinates)
    mean = model.surfaces(data["x"], data["c"])["mean"]
    theta = {name: np.asarray(v)[:, None] for name, v in model.parameters.items()}
    scale = np.asarray(noise_scale(theta, data))
    generator = np.random.default_rng(seed)
    drawn = mean + scale * generator.standard_normal(mean.shape)
    seen = data["z"].copy()
    for values in (drawn, seen):
        values[..., 1] = np.maximum(values[..., 1], data["censor"])
    return drawn, seen


def predictive_check(model: "RegimeModel", *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Posterior predictive p-values of three statistics of each channel.

    ``P(T(replicated) >= T(observed))`` for the spread, the largest and the smallest value over
    cells (Gelman, Meng and Stern 1996, eq. 8), ties counted half (mid-p): near 0 or 1 the model
    cannot make such data. Barriers tie wherever some cell has none, in the runs and replicated.
    """
    drawn, seen = predictive_draws(model, seed=seed)
    statistics: dict[str, Any] = {"spread": np.std, "largest": np.max, "smallest": np.min}
    return {
        channel: {
            name: mid_p(statistic(drawn[:, :, d], axis=1), float(statistic(seen[:, d])))
            for name, statistic in statistics.items()
        }
        for d, channel in enumerate(CHANNELS)
    }


def mid_p(replicated: Array, observed: float) -> float:
    """Share of ``replicated`` [draws] above ``observed``, and half of the share that equals it."""
    return float(np.mean(replicated > observed) + np.mean(replicated == observed) / 2)


def plot_predictive(model: "RegimeModel", *, draws: int = 60, seed: int = 0) -> Any:
    """ArviZ's posterior predictive plot of the three channels; a matplotlib figure."""
    import arviz

    data = to_arviz(model, seed=seed)
    if not hasattr(arviz, "plot_ppc"):
        raise InputError(
            f"ArviZ {arviz.__version__} has no plot_ppc; use arviz_plots on to_arviz(model)."
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots(1, len(CHANNELS))
    arviz.plot_ppc(data, num_pp_samples=draws, ax=axes, random_seed=seed)
    for axis, channel in zip(axes, CHANNELS):
        axis.set_xlabel(f"{channel} (standardised)")
    return figure


@dataclass(frozen=True)
class LeaveOneOut:
    """Expected log predictive density of new cells, all channels together, in nats.

    Attributes:
        elpd: Sum over cells; se: its standard error.
        pointwise: [cells].
        pareto_k: Shape of the importance weights of each cell, [cells]; NaN where a refit took
            their place.
        refitted: Cells whose value comes from a fit without them.
        not_converged: Cells whose refit failed its gates; they keep their importance weights.
    """

    elpd: float
    se: float
    pointwise: Array
    pareto_k: Array
    refitted: tuple[int, ...]
    not_converged: tuple[int, ...] = ()

    @property
    def unreliable(self) -> tuple[int, ...]:
        """Cells whose importance weights are not to be trusted and that were not refitted."""
        return tuple(int(i) for i in np.flatnonzero(self.pareto_k > BAD_K))


def leave_one_out(model: "RegimeModel", *, refit: int = 0) -> LeaveOneOut:
    """PSIS-LOO over cells by ArviZ; the worst cells may be refitted exactly.

    Args:
        refit: Refit the model without each cell whose Pareto k exceeds 0.7, at most that many;
            each costs a fit. Those beyond it are named in ``unreliable``, and those whose refit
            did not converge in ``not_converged``, too.
    """
    import arviz

    found = arviz.loo(to_arviz(model), var_name="cells", pointwise=True)
    values = np.array(found["loo_i"], float)
    shapes = np.array(found["pareto_k"], float)
    bad = np.flatnonzero(shapes > BAD_K)
    worst = bad[np.argsort(-shapes[bad])][:refit]
    done, failed = [], []
    for cell in map(int, worst):
        value = _refitted(model, cell)
        if value is None:
            failed.append(cell)
        else:
            values[cell], shapes[cell] = value, np.nan
            done.append(cell)
    se = float(np.sqrt(len(values) * values.var()))
    return LeaveOneOut(float(values.sum()), se, values, shapes, tuple(done), tuple(failed))


def _refitted(model: "RegimeModel", cell: int) -> float | None:
    """Log predictive density of one cell under a fit to the others, in the same coordinates.

    None where that fit did not converge.
    """
    from scipy.special import logsumexp

    from probcomp.regime.sampler import physical_knobs, pointwise_log_likelihood, sample

    data, _ = model_data(model.table, model.coordinates)
    physical = physical_knobs(model.table)
    # Neither its mean nor the spread of its repeats may be seen.
    held = {**data, **{name: np.array(data[name]) for name in ("valid", "dof", "within")}}
    for name in ("valid", "dof", "within"):
        held[name][cell] = 0
    mcmc, convergence = sample(held, physical, seed=model.seed)
    if not convergence.ok:
        return None
    u = np.asarray(mcmc.get_samples()["u"])
    each = pointwise_log_likelihood(u, data, physical)[:, cell].sum(-1)
    return float(logsumexp(each) - np.log(len(each)))
