r"""Structured Bayesian pruning: Neklyudov, Molchanov, Ashukha and Vetrov (2017), NeurIPS.

Multiplicative noise on each unit, with a log-uniform prior and a log-normal posterior that are both
truncated to ``[a, b]`` in the log (section 3.2):

.. math:: p(\ln\theta) = U[a, b],\qquad q(\ln\theta) = N_{[a, b]}(\mu, \sigma^2)

A unit goes when its signal-to-noise ratio :math:`E\theta / \sqrt{\mathrm{Var}\,\theta}` is below 1
(section 3.4). The divergence is :math:`\ln(b - a)` minus the entropy of the truncated Gaussian.

Departures: the divergence counts three times (``kl_weight``; the bound counts it once), set from
runs on MNIST. ``mu`` is held inside ``[a, b]``, where truncated quantiles are exact in float32; the
authors' code lets it go up to 5. Pretrained start, as in the publication.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.groups import fit_gates
from probcomp.inference.baselines.places import Place
from probcomp.inference.baselines.preparing import Setting
from probcomp.inference.baselines.readout import Pruned

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
WIDEST = 20.0
"""Largest ``sigma``: the posterior is uniform to float32 long before."""


@dataclass(frozen=True, kw_only=True)
class SBPConfig(Schedule):
    """Settings of structured Bayesian pruning.

    Attributes:
        low: ``a``, the smallest log of a scale.
        high: ``b``, the largest.
        threshold: Units with a signal-to-noise ratio below this go.
        log_sigma: Log of the initial deviation.
        weight_decay: Precision of a Gaussian prior over the weights, for each sample.
    """

    epochs: int = 25
    kl_weight: float = 3.0
    low: float = -20.0
    high: float = 0.0
    threshold: float = 1.0
    log_sigma: float = -5.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise InputError(f"low must be below high, got {self.low} and {self.high}")


def truncated_normal_divergence(mean: Tensor, log_sigma: Tensor, low: float, high: float) -> Tensor:
    r"""``KL(N(mean, sigma^2) truncated to [low, high] || U[low, high])``, elementwise, nats.

    .. math:: \ln\frac{b - a}{\sqrt{2\pi e}\,\sigma} - \ln Z
              - \frac{\alpha\phi(\alpha) - \beta\phi(\beta)}{2 Z}

    with :math:`\alpha = (a - \mu)/\sigma`, :math:`\beta = (b - \mu)/\sigma` and
    :math:`Z = \Phi(\beta) - \Phi(\alpha)`. ``mean`` must lie in the interval.
    """
    sigma = torch.exp(log_sigma)
    alpha, beta = (low - mean) / sigma, (high - mean) / sigma
    mass = torch.special.ndtr(beta) - torch.special.ndtr(alpha)
    edges = alpha * _density(alpha) - beta * _density(beta)
    return math.log(high - low) - LOG_SQRT_2PI - 0.5 - log_sigma - mass.log() - 0.5 * edges / mass


def truncated_log_moment(
    mean: Tensor, log_sigma: Tensor, low: float, high: float, power: int
) -> Tensor:
    r"""``ln E[theta^k]`` of the truncated log-normal, float64.

    .. math:: k\mu + \tfrac12 k^2\sigma^2
              + \ln\frac{\Phi(\beta - k\sigma) - \Phi(\alpha - k\sigma)}{Z}
    """
    mean, log_sigma = mean.double(), log_sigma.double()
    sigma = torch.exp(log_sigma)
    alpha, beta = (low - mean) / sigma, (high - mean) / sigma
    shift = power * sigma
    top = _log_mass(alpha - shift, beta - shift) - _log_mass(alpha, beta)
    return power * mean + 0.5 * shift.square() + top


class TruncatedGate(Gate):
    """Truncated log-normal scales of one place."""

    def __init__(self, place: Place, config: SBPConfig) -> None:
        super().__init__(place)
        self.low, self.high = config.low, config.high
        self.threshold = math.log(config.threshold)
        self.location = nn.Parameter(torch.full((place.size,), config.high))
        self.log_sigma = nn.Parameter(torch.full((place.size,), config.log_sigma))

    def parameters_in_range(self) -> tuple[Tensor, Tensor]:
        """Location and log deviation, held where the formulas are exact."""
        return (
            self.location.clamp(self.low, self.high),
            self.log_sigma.clamp(max=math.log(WIDEST)),
        )

    @torch.no_grad()
    def after_step(self) -> None:
        # A clamp alone has no gradient outside: a location that one noisy step had carried over
        # the edge, where all of them start, would stay there for good.
        self.location.clamp_(self.low, self.high)
        self.log_sigma.clamp_(max=math.log(WIDEST))

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        mean, log_sigma = self.parameters_in_range()
        sigma = torch.exp(log_sigma)
        first = torch.special.ndtr((self.low - mean) / sigma)
        last = torch.special.ndtr((self.high - mean) / sigma)
        u = torch.rand(rows, self.place.size, generator=generator)
        # Quantiles of the truncated Gaussian; float32 holds them away from the ends.
        quantile = torch.special.ndtri((first + u * (last - first)).clamp(1e-6, 1 - 1e-6))
        return torch.exp((mean + sigma * quantile).clamp(self.low, self.high))

    def mean(self) -> Tensor:
        return torch.exp(self._log_moment(1)).float()

    def variance(self) -> Tensor:
        first, second = self._log_moment(1), self._log_moment(2)
        return (torch.exp(second) * -torch.expm1(2 * first - second)).clamp_min(0).float()

    def divergence(self) -> Tensor:
        return truncated_normal_divergence(*self.parameters_in_range(), self.low, self.high).sum()

    def score(self) -> Tensor:
        # ln SNR = ln E - 1/2 ln(E2 - E^2) = -1/2 ln(exp(ln E2 - 2 ln E) - 1)
        gap = self._log_moment(2) - 2 * self._log_moment(1)
        return (-0.5 * torch.expm1(gap.clamp_min(1e-12)).log()).float()

    @torch.no_grad()
    def _log_moment(self, power: int) -> Tensor:
        return truncated_log_moment(*self.parameters_in_range(), self.low, self.high, power)


def sbp(setting: Setting, config: SBPConfig | None = None) -> Pruned:
    """Train with truncated log-normal scales on units and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `fit_gates`.
    """
    config = config or SBPConfig()
    return fit_gates(
        setting,
        config,
        "sbp",
        lambda place: TruncatedGate(place, config),
        decay=config.weight_decay,
    )


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square() - LOG_SQRT_2PI)


def _log_mass(alpha: Tensor, beta: Tensor) -> Tensor:
    """``ln(Phi(beta) - Phi(alpha))`` for any tails."""
    upper, lower = torch.special.log_ndtr(beta), torch.special.log_ndtr(alpha)
    return upper + torch.log(-torch.expm1(lower - upper))
