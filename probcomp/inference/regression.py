r"""Sparse linear regression, where the weight side of Turbo-VBI is exact.

.. math:: y = Xw + e,\quad e \sim N(0, \beta^{-1} I)

with ``X`` [samples, n], ``y`` [samples]. Two posteriors over the weights, both weight modules of
`probcomp.inference.turbo.turbo`; `GammaRegression` has the prior of ``CollapsedGamma`` and a full
covariance, `GaussianRegression` has a Gaussian slab and spike and the joint ``q(w_n|s_n) q(s_n)``.

`probcomp.inference.select_variables` answers which weights are needed, by the best inference.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.supports import Marginals
from probcomp.inference.training.evidence import gaussian_evidence, log_slab


@dataclass(frozen=True)
class Data:
    """Design and targets, in double precision.

    Attributes:
        x: Design [samples, n].
        y: Targets [samples].
        noise_precision: ``beta``, known.
    """

    x: Tensor
    y: Tensor
    noise_precision: float
    gram: Tensor = field(init=False, repr=False)
    linear: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.x.dim() != 2 or self.y.shape != self.x.shape[:1]:
            raise InputError(
                "a regression needs x [samples, n] and y [samples], got "
                f"{tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        if not (math.isfinite(self.noise_precision) and self.noise_precision > 0):
            raise InputError(f"noise_precision must be positive, got {self.noise_precision}")
        for name, tensor in (("x", self.x), ("y", self.y)):
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{name} holds NaN or infinite values")
        x, y = self.x.double(), self.y.double()
        object.__setattr__(self, "gram", self.noise_precision * x.T @ x)
        object.__setattr__(self, "linear", self.noise_precision * x.T @ y)

    def log_likelihood(self, mean: Tensor, covariance: Tensor) -> float:
        """``E[ln p(y|w)]`` for weights of the given moments, nats."""
        samples = len(self.y)
        constant = 0.5 * samples * math.log(self.noise_precision / (2 * math.pi))
        square = self.noise_precision * self.y.double().square().sum()
        second = covariance + torch.outer(mean, mean)
        fit = square - 2 * self.linear @ mean + (self.gram * second).sum()
        return constant - 0.5 * float(fit)


@dataclass(frozen=True)
class FullState:
    """``q(w) = N(mean, covariance)`` and the evidence that it gave."""

    mean: Tensor
    covariance: Tensor
    log_odds: Tensor


@dataclass(frozen=True)
class GammaRegression:
    r"""Full-covariance ``q(w)``, collapsed precisions.

    .. math:: \Sigma = (\mathrm{diag}\,E\rho + \beta X^\top X)^{-1},\quad
              \mu = \beta\Sigma X^\top y

    Attributes:
        data: The regression.
        a: Slab shape.
        b: Slab rate; ``b / a`` is the mean square of a kept weight.
        a_spike: Spike shape.
        b_spike: Spike rate.
        start_square: ``E[w^2]`` before the first update, for each weight.
    """

    data: Data
    a: float
    b: float
    a_spike: float
    b_spike: float
    start_square: float | None = None

    def __post_init__(self) -> None:
        values = (self.a, self.b, self.a_spike, self.b_spike)
        if not all(math.isfinite(v) and v > 0 for v in values):
            raise InputError(f"Gamma shapes and rates must be positive, got {values}")

    def start(self) -> FullState:
        n = self.data.x.shape[1]
        square = self.b / self.a if self.start_square is None else self.start_square
        mean = torch.zeros(n, dtype=torch.double)
        covariance = square * torch.eye(n, dtype=torch.double)
        return FullState(mean, covariance, self._evidence(mean, covariance))

    def update(self, state: FullState, psi: Tensor) -> tuple[FullState, Tensor]:
        square = state.mean.square() + state.covariance.diagonal()
        p = torch.sigmoid(psi + state.log_odds)
        precision = p * (self.a + 0.5) / (self.b + 0.5 * square)
        precision = precision + (1 - p) * (self.a_spike + 0.5) / (self.b_spike + 0.5 * square)
        covariance = torch.linalg.inv(torch.diag(precision) + self.data.gram)
        covariance = 0.5 * (covariance + covariance.T)
        mean = covariance @ self.data.linear
        log_odds = self._evidence(mean, covariance)
        return FullState(mean, covariance, log_odds), log_odds

    def bound(self, state: FullState, result: Marginals) -> float:
        n = len(state.mean)
        entropy = 0.5 * (n * math.log(2 * math.pi * math.e) + float(state.covariance.logdet()))
        square = state.mean.square() + state.covariance.diagonal()
        spike = float(log_slab(square, self.a_spike, self.b_spike).sum())
        spike -= 0.5 * n * math.log(2 * math.pi)
        fit = self.data.log_likelihood(state.mean, state.covariance)
        return fit + entropy + spike + float(result.log_z)

    def _evidence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        square = mean.square() + covariance.diagonal()
        slab = log_slab(square, self.a, self.b)
        return slab - log_slab(square, self.a_spike, self.b_spike)


@dataclass(frozen=True)
class JointState:
    """``q(w_n|s_n)``: moments under slab and spike, and the mean of the mixture; all [n]."""

    slab_mean: Tensor
    slab_variance: Tensor
    spike_mean: Tensor
    spike_variance: Tensor
    mean: Tensor


@dataclass(frozen=True)
class GaussianRegression:
    r"""Joint ``q(w_n|s_n) q(s_n)`` by a sweep over the weights.

    With :math:`d_n = \beta x_n^\top x_n` and the residual term
    :math:`r_n = \beta x_n^\top(y - \sum_{m\ne n} x_m E w_m)`, for slab and spike precisions
    :math:`\alpha_k`

    .. math:: m_k = \frac{r_n}{d_n + \alpha_k},\quad v_k = \frac1{d_n + \alpha_k},\quad
        l_n = \tfrac12\ln\frac{\alpha_1 v_1}{\alpha_0 v_0} + \tfrac12 r_n^2 (v_1 - v_0).

    Notes:
        Coordinate ascent on the bound where supports are independent under the prior. Under a
        coupled prior messages carry the supports' marginals only, the cross terms of the
        likelihood use these, and the bound need not rise at every step: under a chain
        `probcomp.inference.joint.joint_chain` uses the pair probabilities, and its bound rises.
    """

    data: Data
    slab: float
    spike: float

    def __post_init__(self) -> None:
        if not 0 < self.slab < self.spike < math.inf:
            raise InputError(
                f"precisions must satisfy 0 < slab < spike, got {self.slab} and {self.spike}"
            )

    def start(self) -> JointState:
        n = self.data.x.shape[1]
        zero = torch.zeros(n, dtype=torch.double)
        d = self.data.gram.diagonal()
        return JointState(zero, 1 / (d + self.slab), zero, 1 / (d + self.spike), zero)

    def update(self, state: JointState, psi: Tensor) -> tuple[JointState, Tensor]:
        d = self.data.gram.diagonal()
        slab_variance, spike_variance = 1 / (d + self.slab), 1 / (d + self.spike)
        mean, linear = state.mean.clone(), torch.zeros_like(state.mean)
        log_odds = torch.zeros_like(mean)
        for n in range(len(mean)):
            linear[n] = self.data.linear[n] - self.data.gram[n] @ mean + d[n] * mean[n]
            log_odds[n] = gaussian_evidence(d[n], linear[n], self.slab, self.spike)
            p = torch.sigmoid(psi[n] + log_odds[n])
            mean[n] = linear[n] * (p * slab_variance[n] + (1 - p) * spike_variance[n])
        new = JointState(
            linear * slab_variance, slab_variance, linear * spike_variance, spike_variance, mean
        )
        return new, log_odds

    def bound(self, state: JointState, result: Marginals) -> float:
        p = result.probability
        mean = p * state.slab_mean + (1 - p) * state.spike_mean
        second = p * (state.slab_mean.square() + state.slab_variance)
        second = second + (1 - p) * (state.spike_mean.square() + state.spike_variance)
        fit = self.data.log_likelihood(mean, torch.diag(second - mean.square()))
        divergence = p * _divergence(state.slab_mean, state.slab_variance, self.slab)
        divergence = divergence + (1 - p) * _divergence(
            state.spike_mean, state.spike_variance, self.spike
        )
        l = result.log_odds - result.extrinsic
        supports = float((p * l).sum()) - float(result.log_z)
        return fit - float(divergence.sum()) - supports


def _divergence(mean: Tensor, variance: Tensor, precision: float) -> Tensor:
    """``KL(N(mean, variance) || N(0, 1/precision))``."""
    scaled = precision * variance
    return 0.5 * (scaled + precision * mean.square() - scaled.log() - 1)
