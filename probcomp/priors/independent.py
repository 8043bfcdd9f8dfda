"""Supports that know nothing of each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.priors.base import (
    Parameter,
    SupportPrior,
    as_support,
    as_tensor,
    check_dims,
    check_probability,
    uniform,
)


@dataclass(frozen=True, eq=False)
class Independent(SupportPrior):
    r"""Each support is on with the same belief, whatever the others are.

    .. math:: p(s) = \prod_n d^{s_n} (1 - d)^{1 - s_n}

    Attributes:
        density: Probability ``d`` that a support is on, in (0, 1); a tensor broadcasts against
            the whole support.
    """

    density: Parameter

    def __post_init__(self) -> None:
        check_probability("Independent", "density", self.density)

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        density = as_tensor(self.density, values)
        each = torch.xlogy(values, density) + torch.xlogy(1 - values, 1 - density)
        return each.sum(-1)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        draws = uniform(shape, generator, self.density)
        return draws < as_tensor(self.density, draws)
