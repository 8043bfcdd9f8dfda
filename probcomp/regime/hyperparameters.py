"""What a few values tell of a process's amplitude, lengths and noise: not one value of each.

With five or ten cells many processes fit about as well, and the most probable one is too sure: of
the posterior of the hyperparameters equally likely draws are taken, and predictions average over
them. They come from importance sampling: half of the trials from a Student t about the mode, half
from the prior, each weighted by posterior over the density of both halves together (Hesterberg
1995, "Weighted average importance sampling and defensive mixture distributions", eq. 3). The prior
keeps the weights bounded where the data say nothing, the Student t has the trials where they do.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln
from scipy.stats import chi2, norm, qmc

from probcomp.errors import InputError
from probcomp.regime.knobs import Array

TRIED = 256
"""Trials from which the draws are resampled."""

TAIL = 5.0
"""Degrees of freedom of the Student t."""

LENGTH, SPREAD = 1.5, 0.7
"""Prior median of the lengths, and their standard deviation in the logarithm."""

LEAST_CURVATURE = 0.25
"""The Student t is at most twice as wide as a standard normal in any direction: about as the prior,
which has the rest."""


def matern_of(d: Array) -> Array:
    """The Matern-5/2 kernel ``(1 + d + d^2 / 3) exp(-d)``."""
    return (1 + d + d**2 / 3) * np.exp(-d)


@dataclass(frozen=True)
class Evidence:
    """What values tell of ``h = ln (amplitude, lengths, noise)``, [dims + 2].

    The prior is half normal (scale ``amplitude_scale``) on the amplitude, log-normal (median 1.5,
    spread .7) on the lengths and log-normal (median ``noise_guess``, spread 1) on the noise.

    Attributes:
        inputs: [rows, dims].
        values: [rows].
        rest: Covariance of the values that is not the process's nor of ``noise``, [rows, rows].
    """

    inputs: Array
    values: Array
    amplitude_scale: float
    noise_guess: float
    rest: Array

    @staticmethod
    def of(
        inputs: Array,
        values: Array,
        *,
        amplitude_scale: float = 1.0,
        noise_guess: float = 0.1,
        known: Array | float = 0.0,
        extra: Array | float = 0.0,
    ) -> "Evidence":
        """Of ``values`` [rows] at ``inputs`` [rows, dims].

        ``known`` is the variance of their own noise, [rows] or of all; ``extra`` the covariance
        [rows, rows] of a part of them that is not the process's.
        """
        if inputs.ndim != 2 or len(inputs) != len(values):
            raise InputError(f"inputs {inputs.shape} and values {values.shape} do not match.")
        rest = np.zeros((len(values), len(values))) + extra
        rest[np.diag_indices_from(rest)] += known + 1e-8
        return Evidence(inputs, values, amplitude_scale, noise_guess, rest)

    def log_prior(self, h: Array) -> Array:
        """Log density of h [n, dims + 2], [n]."""
        amplitude = np.exp(h[:, 0]) / self.amplitude_scale
        log = norm.logpdf(amplitude) + np.log(2) + np.log(amplitude)
        log = log + norm.logpdf(h[:, 1:-1], np.log(LENGTH), SPREAD).sum(1)
        return np.asarray(log + norm.logpdf(h[:, -1], np.log(self.noise_guess)))

    def prior(self, uniform: Array) -> Array:
        """h of its prior, from uniform numbers, [n, dims + 2] both."""
        normal = norm.ppf(uniform)
        amplitude = self.amplitude_scale * norm.ppf((1 + uniform[:, 0]) / 2)
        lengths = np.log(LENGTH) + SPREAD * normal[:, 1:-1]
        noise = np.log(self.noise_guess) + normal[:, -1]
        return np.column_stack([np.log(amplitude), lengths, noise])

    def log_likelihood(self, h: Array) -> Array:
        """Log density of the values under h [n, dims + 2], [n]."""
        rows = len(self.values)
        square = (self.inputs.T[:, :, None] - self.inputs.T[:, None, :]) ** 2
        out = np.empty(len(h))
        step = max(1, 1_000_000 // rows**2)  # covariances of some tens of MB at once
        for at in range(0, len(h), step):
            some = h[at : at + step]
            d = np.sqrt(5 * np.tensordot(np.exp(-2 * some[:, 1:-1]), square, 1))
            cover = np.exp(2 * some[:, :1, None]) * matern_of(d) + self.rest
            cover[:, np.arange(rows), np.arange(rows)] += np.exp(2 * some[:, -1:])
            out[at : at + step] = [self._normal(one) for one in cover]
        return out

    def _normal(self, cover: Array) -> float:
        try:
            factor = np.linalg.cholesky(cover)
        except np.linalg.LinAlgError:
            return -1e10
        half = np.linalg.solve(factor, self.values)
        norming = np.log(np.diag(factor)).sum() + 0.5 * len(cover) * np.log(2 * np.pi)
        return float(-0.5 * half @ half - norming)

    def log_posterior(self, h: Array) -> Array:
        """Log density of h [n, dims + 2] but for a constant, [n]."""
        return self.log_prior(h) + self.log_likelihood(h)

    def mode(self) -> Array:
        """The most probable h, [dims + 2]."""
        dims = self.inputs.shape[1]
        bounds = [(-6, 3), *[(-2.0, 3.0)] * dims, (-6, 1)]
        step = 1e-6
        moves = np.vstack([np.zeros(dims + 2), step * np.eye(dims + 2)])

        def loss(h: Array) -> tuple[float, Array]:
            found = -self.log_posterior(h + moves)
            return float(found[0]), (found[1:] - found[0]) / step

        starts = [
            np.log([self.amplitude_scale * share, *[length] * dims, self.noise_guess])
            for share, length in ((0.6, 1.5), (0.3, 0.7))
        ]
        fits = [minimize(loss, h, jac=True, method="L-BFGS-B", bounds=bounds) for h in starts]
        return np.asarray(min(fits, key=lambda fit: fit.fun).x)

    def curvature(self, h: Array, step: float = 0.05) -> Array:
        """Minus the second derivatives of the log posterior at h, [dims + 2, dims + 2]."""
        size = len(h)
        i, j = np.triu_indices(size)
        e = step * np.eye(size)
        corners = [h + a * e[i] + b * e[j] for a in (1, -1) for b in (1, -1)]
        f = self.log_posterior(np.concatenate(corners)).reshape(4, -1)
        out = np.empty((size, size))
        out[i, j] = out[j, i] = -(f[0] - f[1] - f[2] + f[3]) / (4 * step**2)
        return out

    def trials(self, tried: int = TRIED) -> tuple[Array, Array]:
        """h [tried, dims + 2] and weights [tried] of sum one, which stand for the posterior.

        Points of a Halton sequence, the same each time.
        """
        mode = self.mode()
        size = len(mode)
        uniform = qmc.Halton(size + 1, seed=0).random(tried)
        values, vectors = np.linalg.eigh(self.curvature(mode))
        scale = np.sqrt(np.maximum(values, LEAST_CURVATURE))
        normal, square = norm.ppf(uniform[:, :size]), chi2.ppf(uniform[:, size:], TAIL)
        about = mode + (normal * np.sqrt(TAIL / square) / scale) @ vectors.T
        # The first half and the second: every other point of the sequence is not spread evenly.
        h = np.concatenate([about[: tried // 2], self.prior(uniform[tried // 2 :, :size])])
        far = (((h - mode) @ vectors * scale) ** 2).sum(1)
        student = (
            gammaln((TAIL + size) / 2) - gammaln(TAIL / 2) - 0.5 * size * np.log(np.pi * TAIL)
            + np.log(scale).sum() - 0.5 * (TAIL + size) * np.log1p(far / TAIL)
        )  # fmt: skip
        prior = self.log_prior(h)
        log = prior + self.log_likelihood(h) - np.logaddexp(student, prior)
        weight = np.exp(log - log.max())
        return h, weight / weight.sum()

    def sample(self, count: int) -> Array:
        """Equally likely h, [count, dims + 2]: trials resampled at even steps."""
        h, weight = self.trials()
        order = np.argsort(h[:, 0])  # neighbours alike, so that even steps thin them evenly
        at = np.cumsum(weight[order]).searchsorted((np.arange(count) + 0.5) / count)
        return np.asarray(h[order[np.minimum(at, len(h) - 1)]])
