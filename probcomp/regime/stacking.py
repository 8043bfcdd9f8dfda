"""Stacking of the regime model with a process that knows no regimes, by leave-one-load-out scores.

The regime model extrapolates well where its shape is right and is too sure where it is not; the
process knows no shape. Their predictions are mixed (Yao, Vehtari, Simpson and Gelman 2018, eq. 1).

Neighbours on a smooth grid tell each other's values, so leaving out single cells would favour
whatever interpolates best. A prediction is wanted at loads that were not run: so all cells of one
load are left out together, in closed form, the regime model being linearised
(`probcomp.regime.linear`). The hyperparameters of the processes are those of all cells.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from probcomp.errors import InputError
from probcomp.regime.gp import GaussianProcess, Processes
from probcomp.regime.knobs import Array
from probcomp.regime.linear import Linear

PRIOR_REGIME, PRIOR_PROCESS = 4.0, 1.0
"""Pseudo-observations for each side: few pilots leave the weight with the regime model."""

JITTER = 1e-10
"""Share of the mean variance added to each: cells that repeat each other without noise would make
the covariance singular."""

SAME_LOAD = 1e-9
"""Loads (standardised) closer than this are one: 0.1 + 0.2 and 0.3 differ in the last bit."""

LEAST_LOADS = 4
"""With fewer loads single cells are left out: half of the runs would tell little of the others."""


def left_out(cover: Array, values: Array, groups: list[NDArray[np.intp]]) -> tuple[Array, Array]:
    """Errors and variances of predicting ``values`` [n], each from all that is not in its group.

    For a zero-mean normal with covariance K and a group g: errors ``B^-1 [K^-1 y]_g``, covariance
    ``B^-1`` with ``B = [K^-1]_gg`` (Rasmussen and Williams 2006, eq. 5.12, for groups).
    """
    size = len(cover)
    cover = (cover + cover.T) / 2 + JITTER * np.trace(cover) / size * np.eye(size)
    inverse = cho_solve(cho_factor(cover, lower=True), np.eye(size))
    error, variance = np.zeros(len(values)), np.zeros(len(values))
    for group in groups:
        block = cho_factor(inverse[np.ix_(group, group)], lower=True)
        error[group] = cho_solve(block, inverse[group] @ values)
        variance[group] = np.diag(cho_solve(block, np.eye(len(group))))
    return error, variance


def groups_of(load: Array) -> list[NDArray[np.intp]]:
    """Cells at each load; each cell by itself where there are fewer than four loads."""
    order = np.argsort(load, kind="stable")
    breaks = np.flatnonzero(np.diff(load[order]) > SAME_LOAD) + 1
    groups = [np.sort(group) for group in np.split(order, breaks)]
    if len(groups) < LEAST_LOADS:
        return [np.array([cell]) for cell in range(len(load))]
    return groups


def normal_log(error: Array, variance: Array) -> Array:
    """Log density of a normal at ``error`` from its mean."""
    return -0.5 * (error**2 / variance + np.log(2 * np.pi * variance))


def stacking_weight(regime: Array, process: Array) -> float:
    """Share of the regime model that maximises the summed log score of the mixture.

    Args:
        regime, process: Log densities of each cell, left out, [cells].
    """
    shares = np.linspace(0.02, 0.98, 97)
    mixed = np.logaddexp(
        np.log(shares)[:, None] + regime[None], np.log1p(-shares)[:, None] + process[None]
    ).sum(1)
    prior = PRIOR_REGIME * np.log(shares) + PRIOR_PROCESS * np.log1p(-shares)
    return float(shares[np.argmax(mixed + prior)])


def stacking_weights(scores: Mapping[str, Sequence[float] | Array]) -> dict[str, float]:
    """Weights of models that maximise ``sum_i log sum_k w_k exp(score_ki)``.

    Yao, Vehtari, Simpson and Gelman 2018, eq. 4; ``scores`` are log densities of the same cells,
    each under a fit that has not seen it (here: one without its group).
    """
    if len(scores) < 2:
        raise InputError("stacking needs the scores of at least two models.")
    lengths = {name: len(values) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"scores must be of the same cells; got {lengths}.")
    table = np.stack([np.asarray(values, float) for values in scores.values()])
    density = np.exp(table - table.max(0))

    def loss(free: Array) -> float:
        weights = np.exp(free - np.logaddexp.reduce(free))
        return -float(np.log(weights @ density).sum())

    best = minimize(loss, np.zeros(len(table)), method="L-BFGS-B", bounds=[(-30, 30)] * len(table))
    weights = np.exp(best.x - np.logaddexp.reduce(best.x))
    return dict(zip(scores, map(float, weights)))


def regime_scores(
    linear: Linear,
    residual: Processes | None,
    z: Array,
    groups: list[NDArray[np.intp]],
) -> Array:
    """Log density of the error of each cell in ``z`` [cells, 3] without its group, [cells]."""
    cells = len(z)
    joint = [np.concatenate([group + d * cells for d in range(3)]) for group in groups]
    values = (z - linear.start).T.reshape(-1)
    scores = []
    for part in (None,) if residual is None else residual.parts:
        error, variance = left_out(linear.covariance(part), values, joint)
        scores.append(normal_log(error[:cells], variance[:cells]))
    return np.asarray(np.logaddexp.reduce(scores) - np.log(len(scores)))


def process_scores(
    process: GaussianProcess, values: Array, groups: list[NDArray[np.intp]]
) -> Array:
    """Log density of each value under a process without its group, [cells]."""
    return normal_log(*left_out(process.covariance(), values, groups))
