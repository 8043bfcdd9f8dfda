"""The regime model as a normal distribution, so that whole loads can be left out in closed form.

With u ~ N(0, 1) the parameters and m(u) the channel means,

    z = m(u0) + J (u - u0) + f + noise,        J = Cov(m, u) Cov(u)^-1 over the posterior's draws,

f the residual process on the error. J is the statistical linearisation of m where the posterior
lies (Gelb 1974, "Applied Optimal Estimation", section 6.2). Every conditional is then normal: of
the cells at one load given those at all others, or of the error given the other two channels.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from probcomp.regime.gp import GaussianProcess
from probcomp.regime.knobs import Array

ERROR = 0


@dataclass(frozen=True)
class Linear:
    """Channel means as a linear function of the parameters.

    Attributes:
        start: Means at parameters zero, ``m(u0) - J u0``, [cells, 3].
        slope: J, [cells, 3, size].
        variance: Of the noise of each cell and channel, [cells, 3].
    """

    start: Array
    slope: Array
    variance: Array

    @staticmethod
    def of(u: Array, mean: Array, variance: Array) -> "Linear":
        """From draws of the parameters [draws, size] and of the means [draws, cells, 3]."""
        centre, level = u.mean(0), mean.mean(0)
        du = u - centre
        cover = du.T @ du / len(u) + 1e-9 * np.eye(u.shape[1])
        cross = np.einsum("sp,scd->pcd", du, mean - level) / len(u)
        slope = np.linalg.solve(cover, cross.reshape(len(cover), -1)).T
        slope = slope.reshape(*level.shape, -1)
        return Linear(level - slope @ centre, slope, variance)

    def error_given_others(self, z: Array) -> tuple[Array, Array]:
        """Mean [cells] and covariance [cells, cells] of the noiseless error, without f.

        Given the barriers and dissimilarities of all cells in ``z`` [cells, 3].
        """
        J = self.slope[:, 1:].reshape(-1, self.slope.shape[-1])
        weight = 1 / self.variance[:, 1:].reshape(-1)
        factor = cho_factor(np.eye(J.shape[1]) + (J.T * weight) @ J, lower=True)
        u = cho_solve(factor, J.T @ (weight * (z - self.start)[:, 1:].reshape(-1)))
        Je = self.slope[:, ERROR]
        return self.start[:, ERROR] + Je @ u, Je @ cho_solve(factor, Je.T)

    def covariance(self, residual: GaussianProcess | None) -> Array:
        """Of all observables, channel after channel, [3 cells, 3 cells]."""
        cells = len(self.start)
        J = self.slope.transpose(1, 0, 2).reshape(3 * cells, -1)
        variance = self.variance.copy()
        cover = J @ J.T
        if residual is not None:
            variance[:, ERROR] = residual.noise**2 + residual.known
            cover[:cells, :cells] += residual.kernel(residual.inputs, residual.inputs)
        cover[np.diag_indices_from(cover)] += variance.T.reshape(-1) + 1e-8
        return cover
