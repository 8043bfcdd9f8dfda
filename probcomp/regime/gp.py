"""Gaussian process with a Matern-5/2 kernel: a baseline, and the residual of the regime model."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from probcomp.errors import InputError
from probcomp.regime.knobs import Array


def matern(a: Array, b: Array, lengths: Array) -> Array:
    """``(1 + d + d^2 / 3) exp(-d)``, d = sqrt 5 times the distance scaled by ``lengths``."""
    d = np.sqrt(5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
    return (1 + d + d**2 / 3) * np.exp(-d)


@dataclass(frozen=True)
class GaussianProcess:
    """A zero-mean process at its most probable hyperparameters.

    ``log p(y) + log prior`` is maximised over amplitude, lengths and noise; the prior is half
    normal (scale ``amplitude_scale``) on the amplitude, log-normal (median 1.5, spread .7) on the
    lengths and log-normal (median ``noise_guess``, spread 1) on the noise.

    Attributes:
        inputs: [rows, dims].
        noise: Standard deviation of the part of the noise that all values have.
        known: Variance of each value's own noise beside it, [rows], or of all.
    """

    inputs: Array
    amplitude: float
    lengths: Array
    noise: float
    known: Array | float = 0.0

    @staticmethod
    def fit(
        inputs: Array,
        values: Array,
        *,
        amplitude_scale: float = 1.0,
        noise_guess: float = 0.1,
        known: Array | float = 0.0,
        extra: Array | float = 0.0,
    ) -> "GaussianProcess":
        """Fit the hyperparameters to ``values`` [rows] at ``inputs`` [rows, dims].

        ``extra`` is the covariance [rows, rows] of a part of the values that is not the process's.
        """
        if inputs.ndim != 2 or len(inputs) != len(values):
            raise InputError(f"inputs {inputs.shape} and values {values.shape} do not match.")
        dims = inputs.shape[1]

        def loss(log: Array) -> float:
            amplitude, lengths, noise = np.exp(log[0]), np.exp(log[1:-1]), np.exp(log[-1])
            cover = amplitude**2 * matern(inputs, inputs, lengths) + extra
            cover[np.diag_indices_from(cover)] += noise**2 + known + 1e-8
            try:
                factor = np.linalg.cholesky(cover)
            except np.linalg.LinAlgError:
                return 1e10
            half = np.linalg.solve(factor, values)
            prior = (
                0.5 * (amplitude / amplitude_scale) ** 2
                - log[0]
                + 0.5 * (((log[1:-1] - np.log(1.5)) / 0.7) ** 2).sum()
                + 0.5 * (log[-1] - np.log(noise_guess)) ** 2
            )
            return float(0.5 * half @ half + np.log(np.diag(factor)).sum() + prior)

        starts = [
            np.r_[np.log(amplitude_scale * a), np.full(dims, np.log(length)), np.log(noise_guess)]
            for a, length in ((0.6, 1.5), (0.3, 0.7))
        ]
        bounds = [(-6, 3), *[(-2.0, 3.0)] * dims, (-6, 1)]
        fits = [minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
        best = min(fits, key=lambda fit: fit.fun).x
        noise = float(np.exp(best[-1]))
        return GaussianProcess(inputs, np.exp(best[0]), np.exp(best[1:-1]), noise, known)

    def covariance(self) -> Array:
        """Of the values it was fitted to, noise included, [rows, rows]."""
        cover = self.amplitude**2 * matern(self.inputs, self.inputs, self.lengths)
        cover[np.diag_indices_from(cover)] += self.noise**2 + self.known + 1e-8
        return cover

    def condition(self, points: Array) -> tuple[Array, Array]:
        """``(A, C)``: given values y the mean at ``points`` is ``A y`` and the covariance C."""
        train = self.covariance()
        cross = self.amplitude**2 * matern(points, self.inputs, self.lengths)
        weights = cho_solve(cho_factor(train, lower=True), cross.T).T
        prior = self.amplitude**2 * matern(points, points, self.lengths)
        return weights, prior - weights @ cross.T


def draws(mean: Array, cover: Array, count: int, generator: np.random.Generator) -> Array:
    """Normal draws [count, points]; ``mean`` is [points] or [count, points]."""
    values, vectors = np.linalg.eigh((cover + cover.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return mean + generator.standard_normal((count, len(cover))) @ root.T
