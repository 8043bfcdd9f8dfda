r"""Divergences of variational posteriors from the priors of Bayesian compression, in nats.

Each is elementwise and differentiable. Tests hold each to numerical quadrature.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the approximation to the log-uniform divergence (Molchanov et al. 2017, eq. 14)."""

LOG_UNIFORM_ERROR = 0.012
"""Largest error of that approximation up to its additive constant, nats, for log alpha in
[-8, 8]."""

SQRT2 = math.sqrt(2.0)
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_SQRT_2PI_E = LOG_SQRT_2PI + 0.5


def log_uniform(log_alpha: Tensor) -> Tensor:
    r"""``KL(N(mu, alpha mu^2) || log-uniform)`` as a function of ``log_alpha``, nats.

    .. math:: -k_1 \sigma(k_2 + k_3 \ln\alpha) + \tfrac12 \ln(1 + \alpha^{-1}) + k_1

    The prior is improper, so the divergence has a free constant; this one goes to 0 for large
    alpha. Molchanov, Ashukha and Vetrov (2017), eq. 14.
    """
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


def log_uniform_slope(log_alpha: Tensor) -> Tensor:
    """Derivative of `log_uniform`."""
    s = torch.sigmoid(K2 + K3 * log_alpha)
    return -K1 * K3 * s * (1 - s) - 0.5 * torch.sigmoid(-log_alpha)


def normal(mean: Tensor, log_sigma: Tensor, prior_variance: float = 1.0) -> Tensor:
    r"""``KL(N(mean, sigma^2) || N(0, v))``, nats."""
    ratio = (mean.square() + torch.exp(2 * log_sigma)) / prior_variance
    return 0.5 * (ratio - 1 + math.log(prior_variance)) - log_sigma


def log_normal_gamma(mean: Tensor, log_sigma: Tensor, scale: float = 1.0) -> Tensor:
    r"""``KL(LogNormal(mean, sigma^2) || Gamma(1/2, scale))``, the second number a *scale*; nats.

    .. math:: \tfrac12 \ln k - \tfrac12\mu - \ln\sigma - \tfrac12(1 + \ln 2)
              + e^{\mu + \sigma^2/2} / k

    Louizos, Ullrich and Welling (2017), appendix on the horseshoe, with ``k = tau_0^2``.
    """
    variance = torch.exp(2 * log_sigma)
    constant = 0.5 * math.log(scale) - 0.5 * (1 + math.log(2))
    return constant - 0.5 * mean - log_sigma + torch.exp(mean + 0.5 * variance) / scale


def log_normal_inverse_gamma(mean: Tensor, log_sigma: Tensor) -> Tensor:
    r"""``KL(LogNormal(mean, sigma^2) || InverseGamma(1/2, 1))``, nats.

    .. math:: \tfrac12\mu - \ln\sigma - \tfrac12(1 + \ln 2) + e^{-\mu + \sigma^2/2}

    If ``x`` is InverseGamma(1/2, 1) then ``1 / x`` is Gamma(1/2, 1), so this is
    `log_normal_gamma` at ``-mean``.
    """
    return log_normal_gamma(-mean, log_sigma)


def hard_concrete_open(log_alpha: Tensor, beta: float, low: float, high: float) -> Tensor:
    r"""Probability that a hard concrete gate is not zero.

    .. math:: P(z \neq 0) = \sigma(\ln\alpha - \beta \ln(-\gamma / \zeta))

    Louizos, Welling and Kingma (2018), eq. 12, with ``gamma = low`` and ``zeta = high``.
    """
    return torch.sigmoid(log_alpha - beta * math.log(-low / high))


def bottleneck(mean: Tensor, log_sigma: Tensor) -> Tensor:
    r"""``min_v KL(N(mean, sigma^2) || N(0, v)) = 1/2 ln(1 + mean^2 / sigma^2)``, nats.

    The prior's variance is at its best value ``mean^2 + sigma^2``. Dai, Zhu, Guo and Wipf
    (2018), eq. 11.
    """
    log_mean = torch.log(mean.square() + 1e-30)
    return 0.5 * F.softplus(log_mean - 2 * log_sigma)


def bernoulli(log_odds: Tensor, prior_log_odds: float) -> Tensor:
    r"""``KL(Bern(sigmoid(log_odds)) || Bern(sigmoid(prior_log_odds)))``, nats."""
    p = torch.sigmoid(log_odds)
    return (
        p * (log_odds - prior_log_odds)
        - F.softplus(log_odds)
        + math.log1p(math.exp(prior_log_odds))
    )
