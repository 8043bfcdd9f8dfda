r"""Pyro distributions of the baselines' programs, with the closed divergences of the publications.

``TraceMeanField_ELBO`` takes a divergence from torch's table where there is one. Those registered
here are for the classes of this file only, so nobody else's programs change by them.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import kl_divergence, register_kl
from torch.nn import functional as F

from probcomp.inference.baselines.divergences import LOG_SQRT_2PI_E, log_uniform
from probcomp.inference.programs import SPREAD, marginal
from probcomp.priors.scales import LogUniform

TINY = 1e-16
"""Added to squared means: a mean of exactly zero has an infinite dropout rate."""

LOG_UNIFORM_CONSTANT = (
    -0.5 * (0.5772156649015329 + math.log(2)) - LOG_SQRT_2PI_E + math.log(4 * SPREAD)
)
"""Divergence of a centred Gaussian from the stand-in of the log-uniform prior, nats. The published
approximation leaves it out, and is zero there."""

_StandIn: Any = type(marginal(LogUniform(), 0.5))


class ProperLogUniform(_StandIn):
    r"""``p(w) = 1 / (4 S |w|)`` for :math:`|\ln|w|| \le S`, with ``S`` = `programs.SPREAD`.

    It stands for the improper :math:`p(w) \propto 1/|w|`. Below the smallest size the density is
    flat, so that a Gaussian may cross zero.
    """

    def __init__(
        self,
        prior: LogUniform | None = None,
        density: float = 0.5,
        batch_shape: Sequence[int] = (),
        like: Tensor | None = None,
    ) -> None:
        super().__init__(prior or LogUniform(), density, batch_shape, like)


class RootGamma(dist.Gamma):
    """A Gamma factor of a squared half-Cauchy."""


class RootInverseGamma(dist.InverseGamma):
    """An inverse Gamma factor of a squared half-Cauchy."""


class SpikeSlab(TorchDistribution):
    r""":math:`\gamma N(m, \sigma^2) + (1 - \gamma)\delta_0`, each weight by itself.

    The support is summed out: the density is against length plus a unit mass at zero, so it is
    :math:`1 - \gamma` at exactly 0 and :math:`\gamma N(w; m, \sigma^2)` elsewhere.

    Draws are zero or not, and have the gradient of the Gumbel-softmax relaxation at this
    temperature (Jang, Gu and Poole 2017, section 2.2, straight-through). That is the gradient of an
    expected loss. It is not that of a mean of log densities, in which the mass at zero moves.

    Args:
        log_odds: Of inclusion, [*batch].
        mean: Of the slab, [*batch].
        scale: Standard deviation of the slab, [*batch].
        temperature: Of the relaxation.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(
        self, log_odds: Tensor, mean: Tensor, scale: Tensor, temperature: float = 0.5
    ) -> None:
        self.log_odds, self.mean_on, self.scale = torch.broadcast_tensors(log_odds, mean, scale)
        self.temperature = temperature
        super().__init__(self.log_odds.shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same with more independent copies."""
        odds, mean, scale = (
            t.expand(batch_shape) for t in (self.log_odds, self.mean_on, self.scale)
        )
        return type(self)(odds, mean, scale, self.temperature)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws, [*sample_shape, *batch]."""
        like = self.mean_on.expand(torch.Size(sample_shape) + self.batch_shape)
        value = like + self.scale * torch.randn_like(like)
        u = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
        odds = self.log_odds + torch.log(u) - torch.log1p(-u)
        soft = torch.sigmoid(odds / self.temperature)
        return value * ((odds > 0).to(value) + (soft - soft.detach()))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density against length plus a mass at zero, [*batch]."""
        slab = dist.Normal(self.mean_on, self.scale).log_prob(value)
        on = F.logsigmoid(self.log_odds) + slab
        return torch.where(value != 0, on, F.logsigmoid(-self.log_odds))


@register_kl(dist.Normal, ProperLogUniform)
def _(q: Any, p: Any) -> Tensor:
    """Molchanov, Ashukha and Vetrov (2017), eq. 14, with the constant of the stand-in."""
    log_alpha = 2 * torch.log(q.scale) - torch.log(q.loc.square() + TINY)
    return log_uniform(log_alpha) + LOG_UNIFORM_CONSTANT


@register_kl(dist.LogNormal, RootGamma)
def _(q: Any, p: Any) -> Tensor:
    return _log_normal_gamma(q.loc, q.scale, p.concentration, p.rate)


@register_kl(dist.LogNormal, RootInverseGamma)
def _(q: Any, p: Any) -> Tensor:
    return _log_normal_gamma(-q.loc, q.scale, p.concentration, p.rate)  # of 1 / x


@register_kl(SpikeSlab, SpikeSlab)
def _(q: Any, p: Any) -> Tensor:
    """Bai, Song and Cheng (2020), section 4: of the supports, and of the slabs that are on."""
    support = kl_divergence(dist.Bernoulli(logits=q.log_odds), dist.Bernoulli(logits=p.log_odds))
    slab = kl_divergence(dist.Normal(q.mean_on, q.scale), dist.Normal(p.mean_on, p.scale))
    return support + torch.sigmoid(q.log_odds) * slab


def _log_normal_gamma(loc: Tensor, scale: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    r"""``KL(LogNormal(m, s^2) || Gamma(a, b))``, nats:
    :math:`\ln\Gamma(a) - a(\ln b + m) + b\,e^{m + s^2/2} - \ln s - \tfrac12\ln 2\pi e`."""
    growth = rate * torch.exp(loc + 0.5 * scale.square())
    return torch.lgamma(shape) - shape * (rate.log() + loc) + growth - scale.log() - LOG_SQRT_2PI_E
