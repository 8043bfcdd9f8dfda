"""The table of solvers: a new prior enters with one function."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.inference.supports import marginals
from probcomp.priors import SupportPrior


@dataclass(frozen=True, eq=False)
class Fair(SupportPrior):
    """Every support on with probability one half."""

    scale: float = 1.0

    def log_prob(self, support: Tensor) -> Tensor:
        return torch.full(support.shape[:-1], -support.shape[-1] * 0.6931471805599453)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(tuple(shape), generator=generator) < 0.5


def test_an_unknown_prior_is_refused_until_it_has_a_solver() -> None:
    class Odd(Fair):
        pass

    with pytest.raises(InputError, match="no solver for the prior Odd"):
        marginals(Odd(), torch.zeros(3))

    @solve.register
    def solve_odd(prior: Odd, evidence: Tensor, options: Options) -> Marginals:
        return finish(evidence, torch.zeros_like(evidence), torch.zeros_like(evidence[..., 0]))

    result = marginals(Odd(), torch.ones(3))
    torch.testing.assert_close(result.probability, torch.sigmoid(torch.ones(3)))
    assert result.exact
    assert result.converged
    assert result.pair is None
