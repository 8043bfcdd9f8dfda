"""What a plain adviser gets who is told how noisy and how smooth a task is.

He sees the same cells with the same number of dense seeds. He is told how much runs differ by seeds
at each density and how smooth the surface of the error is: a Gaussian process of ln(error) over
ln(density) and the root of the epochs, whose amplitudes and lengths are fitted to the reference,
which no user has. He advises the level of the least expected error under that law.

It is no bound. Truths are drawn from the posterior of the reference's means, so all of them lie
about one surface, and whoever knew that one could do better; and a pilot's seed brings all its
cells along, while he takes cells for independent. Pilots are truths times the factors by which
single seeds of the reference, drawn with replacement, lie off their mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from _regime_regret import Reference  # beside this file
from numpy.typing import NDArray
from scipy.optimize import minimize

from probcomp.regime.gp import matern

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

STARTS = ((-1.0, 0.5, 0.5, -1.0, -0.5, -2.0), (-2.0, 0.0, 0.0, -1.0, -0.5, -2.0))


@dataclass(frozen=True)
class Surface:
    """Law of ln(mean error) over a grid: ``mean`` and covariance [cells, cells], loads first."""

    mean: float
    cover: Array

    @staticmethod
    def fit(errors: Sequence[Array], loads: Array, levels: Array) -> "Surface":
        """Amplitudes and lengths most probable for the means of ``errors``, a load [levels, seeds].

        The process is a constant and two slopes with normal priors, and a Matern-5/2 part; weak
        normal priors keep the logarithms of all six scales near zero.
        """
        x, t = (standardised(v) for v in (np.log(loads), np.sqrt(levels)))
        cells = np.array([(a, b) for a in x for b in t])
        value = np.log(np.concatenate([some.mean(1) for some in errors]))
        error = np.concatenate(
            [some.std(1, ddof=1) / some.mean(1) / np.sqrt(some.shape[1]) for some in errors]
        )

        def cover(log: Array) -> Array:
            amplitude, along_x, along_t, level, slope_x, slope_t = np.exp(log)
            curved = amplitude**2 * matern(cells, cells, np.array([along_x, along_t]))
            straight = (cells * [slope_x, slope_t]) @ (cells * [slope_x, slope_t]).T
            return curved + level**2 + straight

        def loss(log: Array) -> float:
            root = np.linalg.cholesky(cover(log) + np.diag(error**2))
            half = np.linalg.solve(root, value - value.mean())
            return float(0.5 * half @ half + np.log(np.diag(root)).sum() + 0.02 * (log**2).sum())

        fits = [
            minimize(loss, start, method="Nelder-Mead", options={"maxiter": 4000})
            for start in STARTS
        ]
        best = min(fits, key=lambda fit: float(fit.fun))
        return Surface(float(value.mean()), cover(best.x))

    def expected(self, rows: Rows, seen: Array, variance: Array) -> Array:
        """Expected error of every cell given ln(error) ``seen`` at ``rows``, [cells]."""
        between = self.cover[rows]
        gain = np.linalg.solve(between[:, rows] + np.diag(variance), between).T
        centre = self.mean + gain @ (seen - self.mean)
        left = np.diag(self.cover) - np.einsum("ij,ji->i", gain, between)
        return np.exp(centre + left / 2)


def standardised(values: Array) -> Array:
    """Mean zero and unit spread."""
    return (values - values.mean()) / values.std()


def told_regret(
    reference: Reference,
    surface: Surface,
    cells: Callable[[np.random.Generator], Sequence[int]],
    seeds: int,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean regret, in points, of the adviser who is told the law, and its Monte Carlo error.

    Args:
        cells: Draws the cells of a design, numbered through loads and levels; advice is wanted, as
            of the others, at loads and for levels within those of the design.
        seeds: Dense seeds of a pilot.
    """
    errors = reference.errors
    loads, levels = len(errors), len(errors[0])
    replicates = min(some.shape[1] for some in errors)  # dense seeds that all loads have come first
    factors = np.concatenate(
        [(some / some.mean(1, keepdims=True))[:, :replicates] for some in errors]
    )
    spread = np.array([np.log(some).std(1, ddof=1).mean() for some in errors])  # of one seed
    generator = np.random.default_rng(seed)
    out = np.empty(draws)
    for k in range(draws):
        rows = np.asarray(cells(generator))
        which = generator.integers(len(reference.mu[0]))
        truth = np.array([mu[which] for mu in reference.mu])
        some = generator.integers(replicates, size=seeds)
        seen = truth.ravel()[rows] * factors[np.ix_(rows, some)].mean(1)
        load, level = np.divmod(rows, levels)
        variance = spread[load] ** 2 / seeds
        expected = surface.expected(rows, np.log(seen), variance).reshape(loads, levels)
        near = np.arange(level.min(), level.max() + 1)
        asked = np.arange(load.min(), load.max() + 1)
        said = near[expected[np.ix_(asked, near)].argmin(1)]
        out[k] = 100 * np.mean(truth[asked, said] - truth[asked].min(1))
    return {"regret_points": float(out.mean()), "error": float(out.std(ddof=1) / np.sqrt(draws))}
