r"""Beliefs about the value of a weight given its support: a wide slab where it is on, a narrow
spike where it is off. The log ratio of the two is the evidence that the weight is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import check_positive


@dataclass(frozen=True)
class SpikeSlabGamma:
    r"""The three-layer prior: support, precision, weight.

    .. math:: w \sim N(0, 1/\rho),\qquad
              \rho \mid s \sim \mathrm{Gamma}(a, b)^{s}\,\mathrm{Gamma}(\bar a, \bar b)^{1 - s}

    with shape and rate. Given the support a weight is Student-t with ``2a`` degrees of freedom and
    scale ``sqrt(b / a)``. Design rule: ``E[rho | s] = a / b`` is one over the variance of kept
    weights, and ``a_spike / b_spike`` is much larger. Source: Xia, Tsang and Lau (2023), IEEE TSP
    71, who use a = b = a_spike = 1 and b_spike = 0.01 for weights of order one.

    Attributes:
        a: Shape of the slab's precision.
        b: Rate of the slab's precision.
        a_spike: Shape of the spike's precision.
        b_spike: Rate of the spike's precision.
    """

    a: float = 1.0
    b: float = 1.0
    a_spike: float = 1.0
    b_spike: float = 0.01

    def __post_init__(self) -> None:
        for name in ("a", "b", "a_spike", "b_spike"):
            check_positive("SpikeSlabGamma", name, getattr(self, name))
        if self.a_spike / self.b_spike < self.a / self.b:
            raise InputError(
                f"SpikeSlabGamma: the spike must be the narrow one, but its mean precision "
                f"{self.a_spike / self.b_spike:g} is below the slab's {self.a / self.b:g}; "
                "swap them or lower b_spike"
            )

    @classmethod
    def for_scale(cls, slab: float, *, kappa: float = 1e-2, shape: float = 1.0) -> "SpikeSlabGamma":
        """Mean square ``slab`` of kept weights, ``kappa`` times it of removed ones."""
        return cls(shape, shape * slab, shape, shape * kappa * slab)

    def log_prob(self, weight: Tensor, support: Tensor) -> Tensor:
        """Log density of weights given their supports, precisions integrated; nats, elementwise."""
        slab, spike = _student(weight, self.a, self.b), _student(weight, self.a_spike, self.b_spike)
        return torch.where(support.bool(), slab, spike)

    def evidence(self, weight: Tensor) -> Tensor:
        r"""Log-odds that a weight of known value is on: ``log p(w|1) - log p(w|0)``, nats.

        It is bounded: ``-1/2 ln(b/b_spike)`` at 0 and ``a ln(b/b_spike)`` far out when the two
        shapes are equal, so a field or coupling beyond these bounds silences the data.
        """
        return _student(weight, self.a, self.b) - _student(weight, self.a_spike, self.b_spike)

    def sample(self, support: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Weights given their supports, float64; the precision is drawn and integrated out."""
        on = support.bool()
        shape = torch.where(on, self.a, self.a_spike).double()
        rate = torch.where(on, self.b, self.b_spike).double()
        precision = torch._standard_gamma(shape, generator=generator) / rate
        tiny = torch.finfo(torch.float64).tiny
        return _normal(support, generator) / precision.clamp_min(tiny).sqrt()

    def crossing(self) -> float:
        r"""The size of weight at which the evidence changes sign; zero evidence, in weight units.

        For equal shapes ``w^2 = 2 (b - r b_spike) / (r - 1)`` with
        ``r = (b / b_spike)^(a / (a + 1/2))``; otherwise found by bisection.

        Raises:
            InputError: Spike and slab are the same, or the evidence has one sign throughout.
        """
        if self.a == self.a_spike and self.b > self.b_spike:
            ratio = (self.b / self.b_spike) ** (self.a / (self.a + 0.5))
            return math.sqrt(2 * (self.b - ratio * self.b_spike) / (ratio - 1))
        return _bisect(self, 1e3 * math.sqrt(max(self.b, self.b_spike)))


@dataclass(frozen=True)
class SpikeSlabGaussian:
    r"""A Gaussian slab and a Gaussian spike: the conjugate choice for quadratic losses.

    .. math:: w \mid s \sim N(0, v_1)^{s}\, N(0, v_0)^{1 - s},\qquad
              l(w) = \tfrac12 \ln\frac{v_0}{v_1}
                   + \tfrac12 \Bigl(\frac1{v_0} - \frac1{v_1}\Bigr) w^2

    The limit of ``SpikeSlabGamma`` for large shapes at fixed ``a / b``. Source: George and
    McCulloch (1993), stochastic search variable selection.

    Attributes:
        slab: Variance ``v_1`` of a kept weight.
        spike: Variance ``v_0`` of a removed weight, below the slab's; 0 is a point mass at zero.
    """

    slab: float = 1.0
    spike: float = 1e-3

    def __post_init__(self) -> None:
        check_positive("SpikeSlabGaussian", "slab", self.slab)
        if not 0 <= self.spike < self.slab:
            raise InputError(
                f"SpikeSlabGaussian: spike is a variance in [0, slab), got {self.spike!r} with "
                f"slab {self.slab:g}"
            )

    def log_prob(self, weight: Tensor, support: Tensor) -> Tensor:
        """Log density of each weight given its support; a point mass counts 0 at 0, -inf off it."""
        return torch.where(
            support.bool(), _gaussian(weight, self.slab), _gaussian(weight, self.spike)
        )

    def evidence(self, weight: Tensor) -> Tensor:
        """Log-odds that a weight of known value is on, nats; unbounded above.

        Raises:
            InputError: The spike is a point mass, so a known value decides its support.
        """
        if self.spike == 0:
            raise InputError(
                "SpikeSlabGaussian: a point mass has no density to compare with the slab's; use "
                "evidence_of_estimate with the estimate's variance, or spike > 0"
            )
        return _gaussian(weight, self.slab) - _gaussian(weight, self.spike)

    def evidence_of_estimate(self, mean: Tensor, variance: Tensor) -> Tensor:
        r"""Log-odds from a Gaussian likelihood ``N(mean | w, variance)``; finite for spike 0, nats.

        .. math:: l = \ln N(m \mid 0, v + v_1) - \ln N(m \mid 0, v + v_0)
        """
        wide, narrow = variance + self.slab, variance + self.spike
        return 0.5 * (narrow.log() - wide.log() + mean.square() * (1 / narrow - 1 / wide))

    def sample(self, support: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Weights given their supports, float64."""
        scale = torch.where(support.bool(), math.sqrt(self.slab), math.sqrt(self.spike))
        return _normal(support, generator) * scale.double()

    def crossing(self) -> float:
        """The size of weight at which the evidence changes sign."""
        if self.spike == 0:
            return 0.0
        gap = 1 / self.spike - 1 / self.slab
        return math.sqrt(math.log(self.slab / self.spike) / gap)


def _student(weight: Tensor, shape: float, rate: float) -> Tensor:
    constant = math.lgamma(shape + 0.5) - math.lgamma(shape) - 0.5 * math.log(2 * math.pi * rate)
    return constant - (shape + 0.5) * torch.log1p(weight.square() / (2 * rate))


def _gaussian(weight: Tensor, variance: float) -> Tensor:
    if variance == 0:
        return torch.where(weight == 0, 0.0, -torch.inf).to(weight.dtype)
    return -0.5 * (math.log(2 * math.pi * variance) + weight.square() / variance)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else like.device
    size: Sequence[int] = like.shape
    return torch.randn(size, generator=generator, dtype=torch.float64, device=device)


def _bisect(prior: SpikeSlabGamma, high: float) -> float:
    def sign(weight: float) -> bool:
        return bool(prior.evidence(torch.tensor(weight, dtype=torch.float64)) > 0)

    low = 0.0
    if sign(low) or not sign(high):
        raise InputError(f"{prior}: the evidence does not change sign; widen the slab")
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if sign(middle) else (middle, high)
    return high
