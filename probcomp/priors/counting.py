"""Supports of which a known number is on: exactly k in all, or exactly n in each group of m."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import (
    SupportPrior,
    as_support,
    check_count,
    check_dims,
    log_binomial,
    uniform,
)


@dataclass(frozen=True, eq=False)
class ExactK(SupportPrior):
    r"""Exactly ``k`` supports of the last dimension are on, all such sets equally probable.

    .. math:: p(s) = 1\bigl[\textstyle\sum_n s_n = k\bigr] \Big/ \binom{N}{k}

    Attributes:
        k: How many are on.
    """

    k: int
    fixes_count = True

    def __post_init__(self) -> None:
        check_count("ExactK", "k", self.k, least=0)

    def check_size(self, size: int) -> None:
        """Refuse a last dimension with fewer than ``k`` supports."""
        if self.k > size:
            raise InputError(
                f"ExactK(k={self.k}) needs at least {self.k} supports in the last dimension, "
                f"got {size}"
            )

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        self.check_size(values.shape[-1])
        return _uniform_sets(values, self.k)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        self.check_size(shape[-1])
        return _draw_sets(tuple(shape), self.k, generator)


@dataclass(frozen=True, eq=False)
class NofM(SupportPrior):
    r"""Exactly ``n`` of each ``m`` consecutive supports of the last dimension, as in 2:4 sparsity.

    .. math:: p(s) = \prod_{\rm groups} 1\bigl[\textstyle\sum_{j} s_{gj} = n\bigr]
              \Big/ \binom{m}{n}

    Attributes:
        n: How many of a group are on.
        m: Size of a group; divides the last dimension.
    """

    n: int
    m: int
    fixes_count = True

    def __post_init__(self) -> None:
        check_count("NofM", "m", self.m, least=1)
        check_count("NofM", "n", self.n, least=0)
        if self.n > self.m:
            raise InputError(f"NofM: n must be at most m, got {self.n} of {self.m}")

    def groups(self, size: int) -> int:
        """Number of groups in a last dimension of ``size``."""
        if size % self.m:
            raise InputError(
                f"NofM({self.n}, {self.m}) needs a last dimension divisible by {self.m}, got "
                f"{size}; pad it or leave the layer out"
            )
        return size // self.m

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        groups = self.groups(values.shape[-1])
        return _uniform_sets(values.unflatten(-1, (groups, self.m)), self.n).sum(-1)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        groups = self.groups(shape[-1])
        return _draw_sets((*tuple(shape)[:-1], groups, self.m), self.n, generator).flatten(-2)


def _uniform_sets(values: Tensor, count: int) -> Tensor:
    fits = values.sum(-1) == count
    level = torch.full_like(values[..., 0], -log_binomial(values.shape[-1], count))
    return level.masked_fill(~fits, -torch.inf)


def _draw_sets(shape: tuple[int, ...], count: int, generator: torch.Generator | None) -> Tensor:
    """The sites of the ``count`` smallest of independent uniform draws."""
    order = uniform(shape, generator).argsort(-1)
    chosen = torch.zeros(shape, dtype=torch.bool, device=order.device)
    return chosen.scatter_(-1, order[..., :count], True)
