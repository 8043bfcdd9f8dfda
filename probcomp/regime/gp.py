"""Gaussian process with a Matern-5/2 kernel: a baseline, and the residual of the regime model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from probcomp.regime.hyperparameters import Evidence, matern_of
from probcomp.regime.knobs import Array

PARTS = 31
"""Hyperparameters that stand for their posterior: an odd number, so that even steps through the
draws, which have them in turn, meet them all."""


def matern(a: Array, b: Array, lengths: Array) -> Array:
    """``(1 + d + d^2 / 3) exp(-d)``, d = sqrt 5 times the distance scaled by ``lengths``."""
    return matern_of(np.sqrt(5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(-1)))


def straight(a: Array, b: Array, slopes: Array | float) -> Array:
    """Covariance of a linear function with slopes ``N(0, slopes^2)``, [n, m]."""
    return (a * np.square(slopes)) @ b.T


@dataclass(frozen=True)
class GaussianProcess:
    """A zero-mean process, with a straight part of unknown slopes.

    Attributes:
        inputs: [rows, dims].
        noise: Standard deviation of the part of the noise that all values have.
        known: Variance of each value's own noise beside it, [rows], or of all.
        slopes: Prior standard deviations of the slopes, [dims], or of all.
    """

    inputs: Array
    amplitude: float
    lengths: Array
    noise: float
    known: Array | float = 0.0
    slopes: Array | float = 0.0

    @staticmethod
    def of(
        inputs: Array, h: Array, known: Array | float = 0.0, slopes: Array | float = 0.0
    ) -> "GaussianProcess":
        """Of ``h = ln (amplitude, lengths, noise)``, [dims + 2]."""
        amplitude, *lengths, noise = np.exp(h)
        return GaussianProcess(
            inputs, float(amplitude), np.array(lengths), float(noise), known, slopes
        )

    @staticmethod
    def fit(
        inputs: Array,
        values: Array,
        *,
        known: Array | float = 0.0,
        slopes: Array | float = 0.0,
        **about: float,
    ) -> "GaussianProcess":
        """That of the most probable hyperparameters; arguments as here and of `Evidence.of`."""
        extra = straight(inputs, inputs, slopes)
        evidence = Evidence.of(inputs, values, known=known, extra=extra, **about)
        return GaussianProcess.of(inputs, evidence.mode(), known, slopes)

    def kernel(self, a: Array, b: Array) -> Array:
        """Covariance of the process at ``a`` [n, dims] and ``b`` [m, dims], [n, m]."""
        curved = self.amplitude**2 * matern(a, b, self.lengths)
        return curved + straight(a, b, self.slopes)

    def covariance(self) -> Array:
        """Of the values it was fitted to, noise included, [rows, rows]."""
        cover = self.kernel(self.inputs, self.inputs)
        cover[np.diag_indices_from(cover)] += self.noise**2 + self.known + 1e-8
        return cover

    def condition(self, points: Array) -> tuple[Array, Array]:
        """``(A, C)``: given values y the mean at ``points`` is ``A y`` and the covariance C."""
        cross = self.kernel(points, self.inputs)
        weights = cho_solve(cho_factor(self.covariance(), lower=True), cross.T).T
        return weights, self.kernel(points, points) - weights @ cross.T


@dataclass(frozen=True)
class Processes:
    """Equally likely processes: one whose hyperparameters are integrated out.

    Of any number of draws the first is of the first part, the second of the second, and so on.
    """

    parts: tuple[GaussianProcess, ...]

    @staticmethod
    def fit(
        inputs: Array, values: Array, *, known: Array | float = 0.0, **about: Any
    ) -> "Processes":
        """Arguments as of `Evidence.of`."""
        evidence = Evidence.of(inputs, values, known=known, **about)
        return Processes(
            tuple(GaussianProcess.of(inputs, h, known) for h in evidence.sample(PARTS))
        )

    def noise(self, count: int) -> Array:
        """Standard deviation of the noise of each of ``count`` draws, [count, 1]."""
        of_part = np.array([part.noise for part in self.parts])
        return of_part[np.arange(count) % len(of_part), None]

    def draws(self, points: Array, values: Array, generator: np.random.Generator) -> Array:
        """Noiseless, [count, points]: at ``points``, given the ``values`` [count, rows] of each."""
        out = np.empty((len(values), len(points)))
        for k, part in enumerate(self.parts):
            weights, cover = part.condition(points)
            mine = values[k :: len(self.parts)]
            out[k :: len(self.parts)] = draws(mine @ weights.T, cover, len(mine), generator)
        return out


def draws(mean: Array, cover: Array, count: int, generator: np.random.Generator) -> Array:
    """Normal draws [count, points]; ``mean`` is [points] or [count, points]."""
    values, vectors = np.linalg.eigh((cover + cover.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return mean + generator.standard_normal((count, len(cover))) @ root.T
