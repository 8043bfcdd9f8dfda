"""Forward-backward on chains against enumeration."""

import pytest
import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Chain
from tests.inference.enumeration import enumerate_posterior

MARGINAL, LOG_Z = 1e-12, 1e-10  # rounding of sums of up to 2^12 terms


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12])
@pytest.mark.parametrize(("p01", "p10"), [(0.1, 0.3), (0.9, 0.8), (1e-4, 0.02)])
def test_marginals_pairs_and_log_z(length: int, p01: float, p10: float) -> None:
    generator = torch.Generator().manual_seed(length)
    evidence = 3 * torch.randn(length, generator=generator, dtype=torch.float64)
    chain = Chain(p01, p10)
    result, truth = marginals(chain, evidence), enumerate_posterior(chain, evidence)
    torch.testing.assert_close(result.probability, truth.probability, rtol=0, atol=MARGINAL)
    torch.testing.assert_close(result.log_odds, truth.log_odds, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.log_z, truth.log_z, rtol=0, atol=LOG_Z)
    pairs = truth.mean(truth.supports[:, 1:] * truth.supports[:, :-1])
    torch.testing.assert_close(result.pair, pairs, rtol=0, atol=MARGINAL)


def test_prior_marginals_are_stationary_along_a_long_chain() -> None:
    result = marginals(Chain(0.05, 0.2), torch.zeros(1000, dtype=torch.float64))
    torch.testing.assert_close(
        result.probability, torch.full_like(result.probability, 0.2), rtol=0, atol=MARGINAL
    )
    assert result.log_z.item() == pytest.approx(0, abs=1e-9)


def test_parameters_for_each_row_of_the_batch() -> None:
    p01 = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    evidence = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = marginals(Chain(p01, 0.3), evidence)
    for row in range(3):
        alone = marginals(Chain(float(p01[row]), 0.3), evidence[row])
        torch.testing.assert_close(together.log_odds[row], alone.log_odds)
        torch.testing.assert_close(together.log_z[row], alone.log_z)


def test_log_z_differentiates_in_the_transitions() -> None:
    evidence = torch.linspace(-1, 2, 7, dtype=torch.float64)

    def log_z(p01: torch.Tensor, p10: torch.Tensor) -> torch.Tensor:
        return marginals(Chain(p01, p10), evidence).log_z

    point = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in (0.2, 0.4)]
    assert torch.autograd.gradcheck(log_z, point)


def test_second_derivative_is_the_covariance() -> None:
    chain, evidence = Chain(0.2, 0.4), torch.linspace(-1, 1, 6, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda l: marginals(chain, l).log_z, evidence)
    truth = enumerate_posterior(chain, evidence)
    mean = truth.probability
    second = (truth.supports * truth.weight[:, None]).T @ truth.supports
    torch.testing.assert_close(hessian, second - mean[:, None] * mean, rtol=0, atol=1e-12)
