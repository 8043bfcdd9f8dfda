r"""Block durations: the prior on how many tokens a block has, by its hazard.

A duration has hazard h(l) = P(len = l | len >= l) for l = 1..longest, with h(longest) = 1, so

    d(l) = h(l) prod_{j<l} (1 - h(j)),     D(l) = P(len > l) = prod_{j<=l} (1 - h(j)).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probcomp.decoding.length import NEG, negative_binomial_hazard
from probcomp.errors import InputError


class Duration(Protocol):
    """Anything with a hazard over 1..longest."""

    def hazard(self) -> Tensor:
        """float64 [longest]; the last entry is 1."""
        ...


@dataclass(frozen=True)
class Geometric:
    """Constant hazard 1 / mean, cut at ``longest``."""

    mean: float
    longest: int = 64

    def hazard(self) -> Tensor:
        _check(self.mean, self.longest)
        return _closed(torch.full((self.longest,), 1.0 / self.mean, dtype=torch.float64))


@dataclass(frozen=True)
class Fixed:
    """Every block has exactly ``size`` tokens: the fixed-block decoders."""

    size: int

    def hazard(self) -> Tensor:
        _check(1.0, self.size)
        return _closed(torch.zeros(self.size, dtype=torch.float64))


@dataclass(frozen=True)
class NegativeBinomial:
    """len = 1 + NB(shape, mean - 1), cut at ``longest``: unimodal for shape > 1."""

    mean: float
    shape: float = 4.0
    longest: int = 64

    def hazard(self) -> Tensor:
        _check(self.mean, self.longest)
        if self.mean == 1.0:
            return torch.ones(1, dtype=torch.float64)
        return _closed(negative_binomial_hazard(self.mean - 1.0, self.shape, self.longest))


@dataclass(frozen=True)
class Crp:
    r"""Sequential Chinese-restaurant cuts: h(l) = alpha / (l + alpha).

    On contiguous text this is the Yule-Simon law d(l) = alpha Beta(l, alpha + 1): heavy tails,
    mean alpha / (alpha - 1) for alpha > 1 and infinite otherwise, so a cut at ``longest``
    matters. `Crp.with_mean` finds alpha for a mean after the cut.
    """

    alpha: float
    longest: int = 64

    def hazard(self) -> Tensor:
        _check(1.0, self.longest)
        if self.alpha <= 0:
            raise InputError(f"a CRP concentration is above 0, got {self.alpha}")
        length = torch.arange(1, self.longest + 1, dtype=torch.float64)
        return _closed(self.alpha / (length + self.alpha))

    @classmethod
    def with_mean(cls, mean: float, longest: int = 64) -> "Crp":
        """The concentration whose cut law has this mean (tokens per block), by bisection."""
        if not 1.0 < mean < longest:
            raise InputError(f"a CRP mean lies between 1 and {longest} tokens, got {mean}")
        low, high = 1e-6, 1e6
        for _ in range(100):
            middle = (low * high) ** 0.5
            if mean_duration(cls(middle, longest)) > mean:
                low = middle
            else:
                high = middle
        return cls((low * high) ** 0.5, longest)


def _check(mean: float, longest: int) -> None:
    if longest < 1 or mean < 1.0:
        raise InputError(f"a block has at least one token, got mean {mean} and longest {longest}")


def _closed(hazard: Tensor) -> Tensor:
    hazard[-1] = 1.0
    return hazard


def log_duration(duration: Duration) -> tuple[Tensor, Tensor]:
    """(log d, log D), float64 [longest] each, with `NEG` for log 0."""
    hazard = duration.hazard()
    stay = torch.log1p(-hazard).clamp(min=NEG)
    longer = stay.cumsum(0).clamp(min=NEG)
    before = torch.cat((longer.new_zeros(1), longer[:-1]))
    return (hazard.log() + before).clamp(min=NEG), longer


def mean_duration(duration: Duration) -> float:
    """Mean tokens per block."""
    log_d, _ = log_duration(duration)
    return float((log_d.exp() * torch.arange(1, len(log_d) + 1)).sum())
