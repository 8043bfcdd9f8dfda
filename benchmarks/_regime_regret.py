"""What a level costs over the truly best one, judged on a grid of noisy replicates.

Wanted is the regret ``mu_a - min_k mu_k`` of a level a, with mu_k the mean error of level k over
all seeds. Three estimates, of R replicates of each level that had no part in choosing a:

- ``plain``, ``ybar_a - min ybar``: the least of several noisy means is too low, so this is too high
  on average, also for a = the best. That excess is the ``floor``.
- ``crossed``: the best level is named on all replicates but one, and the difference is taken on
  that one. Free of the first bias; but the level so named need not be the best, so this is too low.
- `posterior`: levels are exchangeable, ``mu_k ~ N(m, tau^2)``, and ``ybar ~ N(mu, C / R)`` with C
  the covariance of the replicates; regret is averaged over the posterior of mu. Right on average
  over grids drawn from that prior, with a tau that is learnt from the grid.

All three agree as R grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 4000


def plain(errors: Array, level: int) -> float:
    """Mean error at a level less the least mean error, of ``errors`` [levels, replicates]."""
    mean = errors.mean(1)
    return float(mean[level] - mean.min())


def crossed(errors: Array, level: int) -> float:
    """Error at a level less that at the best on the other replicates, averaged over replicates."""
    out = np.empty(errors.shape[1])
    for one in range(errors.shape[1]):
        best = int(np.argmin(np.delete(errors, one, 1).mean(1)))
        out[one] = errors[level, one] - errors[best, one]
    return float(out.mean())


def posterior(errors: Array, seed: int = 0, draws: int = DRAWS) -> Array:
    """Draws of mu given ``errors`` [levels, replicates], [draws, levels].

    m has a flat prior; tau one of density ``s / (s + tau)^2``, s the standard error of a mean: as
    likely below s as above.
    """
    levels, replicates = errors.shape
    mean, cover = errors.mean(1), np.cov(errors) / replicates
    scale = float(np.sqrt(np.trace(cover) / levels))
    taus = np.geomspace(0.02 * scale, 20 * max(scale, float(mean.std())), 60)
    one = np.ones(levels)
    log, centres, covers = [], [], []
    for tau in taus:
        total = cover + tau**2 * np.eye(levels)
        weights = np.linalg.inv(total)
        precision = one @ weights @ one
        m = float(one @ weights @ mean / precision)
        gain = tau**2 * weights  # of ybar - m over mu - m
        miss = mean - m
        left = (np.eye(levels) - gain) @ one  # how mu follows m
        centres.append(m + gain @ miss)
        covers.append(tau**2 * (np.eye(levels) - gain) + np.outer(left, left) / precision)
        evidence = -0.5 * (miss @ weights @ miss + np.linalg.slogdet(total)[1] + np.log(precision))
        log.append(evidence + np.log(tau) - 2 * np.log(scale + tau))  # log-spaced grid
    share = np.exp(np.array(log) - max(log))
    generator = np.random.default_rng(seed)
    out = np.empty((draws, levels))
    which = generator.choice(len(taus), size=draws, p=share / share.sum())
    for k in np.unique(which):
        rows = which == k
        out[rows] = generator.multivariate_normal(
            centres[k], covers[k], size=int(rows.sum()), method="eigh"
        )
    return out


def noise_floor(errors: Array, mu: Array, seed: int = 0) -> float:
    """Mean plain regret of the truly best level, were the grid measured again; ``mu`` are draws."""
    levels, replicates = errors.shape
    cover = np.cov(errors) / replicates
    noise = np.random.default_rng(seed).multivariate_normal(np.zeros(levels), cover, size=len(mu))
    again, best = mu + noise, mu.argmin(1)
    return float((again[np.arange(len(mu)), best] - again.min(1)).mean())


@dataclass
class Reference:
    """Replicates of each load, [levels, replicates] (fractions), and what follows.

    Loads may have different numbers of replicates.
    """

    errors: Sequence[Array]
    mu: list[Array] = field(init=False)
    floors: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.mu = [posterior(errors, seed=k) for k, errors in enumerate(self.errors)]
        self.floors = [noise_floor(errors, mu) for errors, mu in zip(self.errors, self.mu)]

    def regrets(self, load: int, level: int) -> Array:
        """Draws of the regret of a level at a load, [draws]."""
        return self.mu[load][:, level] - self.mu[load].min(1)

    def best(self, load: int) -> Array:
        """Probability of each level of being the best at a load, [levels]."""
        levels = len(self.errors[load])
        return np.bincount(self.mu[load].argmin(1), minlength=levels) / len(self.mu[load])

    def least(self, load: int) -> float:
        """What the level that seems best is charged here, since the judge is not sure of it."""
        mean = self.mu[load].mean(0)
        return float(mean.min() - self.mu[load].min(1).mean())

    def summary(self, chosen: list[tuple[int, int, int]]) -> dict[str, object]:
        """What the levels of an adviser cost, in points (per cent).

        Args:
            chosen: (design, load, level) of every piece of advice.

        ``regret_90`` is the interval of the posterior over seeds of the reference; designs count
        as they are. ``standard_error_over_designs`` says how much the mean would move with others;
        ``least_points`` what nobody could be charged less than, on this judge's knowledge.
        """
        drawn = 100 * np.stack([self.regrets(load, level) for _, load, level in chosen])
        designs = np.array([design for design, *_ in chosen])
        each = [float(drawn[designs == d].mean()) for d in np.unique(designs)]
        mean = drawn.mean(0)
        found: dict[str, object] = {
            "regret_points": float(mean.mean()),
            "regret_90": [float(v) for v in np.quantile(mean, [0.05, 0.95])],
            "plain_points": 100 * float(np.mean([plain(self.errors[i], k) for _, i, k in chosen])),
            "floor_points": 100 * float(np.mean([self.floors[i] for _, i, _ in chosen])),
            "least_points": 100 * float(np.mean([self.least(i) for _, i, _ in chosen])),
            "crossed_points": 100 * float(
                np.mean([crossed(self.errors[i], k) for _, i, k in chosen])
            ),
        }  # fmt: skip
        if len(each) > 1:
            found["standard_error_over_designs"] = float(np.std(each, ddof=1) / np.sqrt(len(each)))
        return found
