"""Stacking of the regime model with a process that knows no regimes, by leave-one-out scores.

The regime model extrapolates well where its shape is right and is too sure where it is not; the
process knows no shape. Their predictions are mixed (Yao, Vehtari, Simpson and Gelman 2018, eq. 1).

A score leaves a cell's value out, but not the cell's part in fitting lengths, amplitude and noise
of the two processes. This flatters both, and the process that stands alone more, since all of it
is fitted so: the weight leans a little to the process. How much has not been measured by refits.
"""

from typing import Any

import numpy as np
from scipy.special import logsumexp

from probcomp.regime.gp import GaussianProcess
from probcomp.regime.knobs import Array

PRIOR_REGIME, PRIOR_PROCESS = 4.0, 1.0
"""Pseudo-observations for each side: few pilots leave the weight with the regime model."""


def importance_weights(log_likelihood: Array) -> Array:
    """Log weights [draws, cells] of the posterior without each cell, truncated and normalised.

    ``w_s ~ 1 / p(cell | draw s)``, cut at sqrt(draws) times their mean (Ionides 2008).
    """
    log_w = -log_likelihood
    draws = len(log_w)
    log_w = log_w - logsumexp(log_w, axis=0) + np.log(draws)  # mean one
    log_w = np.minimum(log_w, 0.5 * np.log(draws))
    return log_w - logsumexp(log_w, axis=0)


def left_out(cover: Array, values: Array) -> tuple[Array, Array]:
    """Errors and variances of predicting each of ``values`` [..., n] from all others.

    For a zero-mean normal with covariance K: error ``[K^-1 y]_i / [K^-1]_ii``, variance
    ``1 / [K^-1]_ii`` (Rasmussen and Williams 2006, eq. 5.12).
    """
    inverse = np.linalg.inv(cover)
    variance = 1 / np.diag(inverse)
    return values @ inverse * variance, variance


def normal_log(error: Array, variance: Array) -> Array:
    """Log density of a normal at ``error`` from its mean."""
    return -0.5 * (error**2 / variance + np.log(2 * np.pi * variance))


def stacking_weight(regime: Array, process: Array) -> float:
    """Share of the regime model that maximises the summed log score of the mixture.

    Args:
        regime, process: Leave-one-out log densities of each cell, [cells].
    """
    shares = np.linspace(0.02, 0.98, 97)
    mixed = np.logaddexp(
        np.log(shares)[:, None] + regime[None], np.log1p(-shares)[:, None] + process[None]
    ).sum(1)
    prior = PRIOR_REGIME * np.log(shares) + PRIOR_PROCESS * np.log1p(-shares)
    return float(shares[np.argmax(mixed + prior)])


def regime_scores(
    log_likelihood: Array, left: Array, residual: GaussianProcess | None, noise: Array
) -> Array:
    """Leave-one-out log density of the first channel of each cell, [cells].

    Args:
        log_likelihood: Of all channels of a cell under each draw, [draws, cells].
        left: What each draw leaves of the first channel, [draws, cells].
        residual: The process on that; noise: of each draw, [draws], used without one.
    """
    if residual is None:
        error, variance = left, np.broadcast_to(noise[:, None] ** 2, left.shape)
    else:
        error, variance = left_out(covariance(residual), left)
    return logsumexp(importance_weights(log_likelihood) + normal_log(error, variance), axis=0)


def process_scores(process: GaussianProcess, values: Array) -> Array:
    """Leave-one-out log density of each value under a process, [cells]."""
    return normal_log(*left_out(covariance(process), values))


def covariance(process: GaussianProcess) -> Array:
    """Covariance of the process at its own inputs, noise included."""
    from probcomp.regime.gp import matern

    cover: Any = process.amplitude**2 * matern(process.inputs, process.inputs, process.lengths)
    cover[np.diag_indices_from(cover)] += process.noise**2 + 1e-8
    return cover
