"""What runs of one seed have in common, and so what a few seeds leave open everywhere at once.

All runs of a dense seed descend from one network: a lucky one is good at all densities. With

    z_is = m_i + s_i (sqrt(rho) v_s + sqrt(1 - rho) e_is),      v_s, e_is ~ N(0, 1),

s_i the standard deviation over seeds of cell i, runs of S seeds see the surface ``m + s sqrt(rho)
mean(v)``, not m. More cells of the same seeds do not tell the two apart; the surface that is fitted
is the shifted one, and m has a further standard deviation of ``s sqrt(rho / S)``, in step at all
settings. Differences between settings of one load are hardly touched.
"""

import numpy as np
from numpy.typing import NDArray

from probcomp.regime.knobs import Array

PRIOR = 4.0
"""rho ~ Beta(1, PRIOR), mean one fifth."""

GRID = np.linspace(0.0, 0.99, 100)


def seeds_seen(seed: NDArray[np.int64] | None, cells: NDArray[np.int64]) -> float:
    """S, the number of seeds that share the runs evenly: ``1 / sum of squared shares``.

    Without labels the repeats of all cells are taken to be of the same seeds.
    """
    if seed is None:
        return len(cells) / len(np.unique(cells))
    share = np.bincount(seed) / len(seed)
    return float(1 / (share**2).sum())


def common_share(
    deviation: Array, seed: NDArray[np.int64] | None, count: int, generator: np.random.Generator
) -> Array:
    """Draws of rho, [count].

    The mean over the runs of a seed of ``deviation``, each run's from its cell's mean in standard
    deviations over seeds, has variance ``(1 - 1 / S) (rho + (1 - rho) / n)`` for n cells of the
    same S seeds. Without labels the prior is drawn from.

    Args:
        deviation: [runs]; zero in cells of a single run, which are left out.
        seed: Index of the seed of each run, [runs].
    """
    log = (PRIOR - 1) * np.log1p(-GRID)
    if seed is not None:
        repeated = deviation != 0
        runs = np.bincount(seed[repeated], minlength=seed.max() + 1)
        total = np.bincount(seed[repeated], deviation[repeated], minlength=seed.max() + 1)
        has = runs > 0
        seeds, n = int(has.sum()), float(runs[has].mean()) if has.any() else 0.0
        if seeds > 1:
            square = float(((total[has] / runs[has]) ** 2).sum())
            variance = GRID + (1 - GRID) / n
            log = log - 0.5 * ((seeds - 1) * np.log(variance) + square / variance)
    weight = np.exp(log - log.max())
    return generator.choice(GRID, size=count, p=weight / weight.sum())
