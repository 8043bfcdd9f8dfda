r"""Heavy-tailed beliefs about weights and about the scales of groups of weights.

They have a peak or a pole at zero and slow tails: small values are drawn to zero, large ones are
left alone. The posterior families that go with them are in `probcomp.inference.baselines`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import check_finite, check_positive


@dataclass(frozen=True)
class LogUniform:
    r"""``p(w)`` proportional to ``1 / |w|``: all orders of magnitude are equally likely.

    Improper, so densities and divergences have a free constant. The prior of sparse variational
    dropout (Molchanov, Ashukha and Vetrov 2017, eq. 6) and of the scales of BC-GNJ (Louizos,
    Ullrich and Welling 2017, section 4.2.1).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """``-ln |w|`` up to a constant; nats, elementwise, infinite at 0."""
        return -value.abs().log()


@dataclass(frozen=True)
class TruncatedLogUniform:
    r"""Uniform in ``ln theta`` on ``[low, high]``: a proper log-uniform.

    The prior of structured Bayesian pruning (Neklyudov et al. 2017, eq. 9), with ``[-20, 0]``.

    Attributes:
        low: Smallest log of a scale.
        high: Largest log of a scale.
    """

    low: float = -20.0
    high: float = 0.0

    def __post_init__(self) -> None:
        check_finite("TruncatedLogUniform", "low", self.low)
        check_finite("TruncatedLogUniform", "high", self.high)
        if not self.low < self.high:
            raise InputError(
                f"TruncatedLogUniform: low must be below high, got {self.low} and {self.high}"
            )

    def log_prob(self, value: Tensor) -> Tensor:
        """``-ln theta - ln(high - low)`` inside, minus infinity outside; nats, elementwise."""
        log = value.log()
        inside = (log >= self.low) & (log <= self.high)
        density = -log - math.log(self.high - self.low)
        return torch.where(inside, density, -torch.inf)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Scales of the given shape, float64."""
        u = torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
        return torch.exp(self.low + (self.high - self.low) * u)


@dataclass(frozen=True)
class HalfCauchy:
    r"""``p(z) = 2 / (pi k (1 + z^2 / k^2))`` for ``z > 0``: the scale prior of the horseshoe.

    It is the root of a product of two simpler variables, which is what makes its divergence from a
    log-normal posterior closed:

    .. math:: z = \sqrt{xy},\qquad x \sim \mathrm{Gamma}(\tfrac12, k^2),\quad
              y \sim \mathrm{InvGamma}(\tfrac12, 1)

    with the Gamma's second number a scale. Carvalho, Polson and Scott (2010); Louizos, Ullrich and
    Welling (2017), eq. 14.

    Attributes:
        scale: Median ``k``.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("HalfCauchy", "scale", self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density; nats, elementwise, minus infinity for negative values."""
        density = math.log(2 / (math.pi * self.scale)) - torch.log1p((value / self.scale).square())
        return torch.where(value >= 0, density, -torch.inf)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Scales of the given shape, float64, through the two factors."""
        half = torch.full(tuple(shape), 0.5, dtype=torch.float64)
        tiny = torch.finfo(torch.float64).tiny
        x = self.scale**2 * torch._standard_gamma(half, generator=generator)
        y = 1 / torch._standard_gamma(half, generator=generator).clamp_min(tiny)
        return (x * y).sqrt()
