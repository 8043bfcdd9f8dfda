"""A quick belief about the error over levels and densities, from single runs: for planning.

    ln error = level + two slopes + f(x, t) + noise,   f a Matern-5/2 process,

x the logarithm of the density and t the knob's temperature, both of mean zero and unit spread over
the grid of the task. Runs differ by seeds with the standard deviation ``s exp(-k x)``: more where
few weights are left. It knows no regimes and takes milliseconds, where the regime model takes half
a minute; advice is given by that.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from probcomp.regime.coordinates import ERROR_FLOOR
from probcomp.regime.gp import matern
from probcomp.regime.knobs import Array

LEVEL, SLOPES = 3.0, (1.0, 0.5)
"""Prior standard deviations of the level and of the slopes in x and t, in ln(error)."""

AMPLITUDE, LENGTH, NOISE, FALL = 0.5, 1.5, 0.2, 0.3
"""Prior scale of the curved part, median length, median noise, spread of its slope in x."""


@dataclass(frozen=True)
class ErrorSurface:
    """Belief about ln(error) at the points of a grid.

    Attributes:
        mean, cover: Of ln(error) without the noise of a run, [points] and [points, points].
        noise: Variance of one run, [points].
    """

    mean: Array
    cover: Array
    noise: Array

    @staticmethod
    def fit(points: Array, rows: Array, error: Array) -> "ErrorSurface":
        """Condition on runs, with the most probable amplitude, lengths and noise.

        Args:
            points: The grid, [points, 2]: x and t in their own units.
            rows: Which point each run is of, [runs]; repeated where seeds repeat a point.
            error: What it showed (fraction), [runs].
        """
        u = (points - points.mean(0)) / points.std(0)
        y = np.log(np.maximum(error, ERROR_FLOOR))
        centre = float(y.mean())

        def covers(free: Array) -> tuple[Array, Array]:
            amplitude, lengths, s = np.exp(free[0]), np.exp(free[1:3]), np.exp(free[3])
            straight = u * SLOPES
            cover = LEVEL**2 + straight @ straight.T + amplitude**2 * matern(u, u, lengths)
            return cover, (s * np.exp(-free[4] * u[:, 0])) ** 2

        def loss(free: Array) -> float:
            cover, noise = covers(free)
            factor = np.linalg.cholesky(cover[np.ix_(rows, rows)] + np.diag(noise[rows] + 1e-8))
            half = np.linalg.solve(factor, y - centre)
            prior = (
                0.5 * (np.exp(free[0]) / AMPLITUDE) ** 2
                - free[0]
                + 0.5 * (((free[1:3] - np.log(LENGTH)) / 0.7) ** 2).sum()
                + 0.5 * ((free[3] - np.log(NOISE)) / 0.8) ** 2
                + 0.5 * (free[4] / FALL) ** 2
            )
            return float(0.5 * half @ half + np.log(np.diag(factor)).sum() + prior)

        start = np.log([AMPLITUDE / 2, LENGTH, LENGTH, NOISE, 1.0])
        bounds = [(-4, 1), (-1.5, 2.5), (-1.5, 2.5), (-5, 1), (-1.5, 1.5)]
        best = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
        cover, noise = covers(best)
        seen = cover[rows]
        gain = np.linalg.solve(seen[:, rows] + np.diag(noise[rows] + 1e-8), seen).T
        return ErrorSurface(centre + gain @ (y - centre), cover - gain @ seen, noise)
