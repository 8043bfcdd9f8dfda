"""The transfer matrix against enumeration, at any coupling."""

import pytest
import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Chain, Lattice
from tests.inference.enumeration import enumerate_posterior


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 6), (6, 2), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("coupling", [-1.0, 0.5, 3.0])
def test_marginals_pairs_and_log_z(shape: tuple[int, int], coupling: float) -> None:
    generator = torch.Generator().manual_seed(0)
    evidence = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    prior = Lattice(-0.4, coupling)
    result, truth = marginals(prior, evidence), enumerate_posterior(prior, evidence)
    torch.testing.assert_close(result.probability, truth.probability, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.log_odds, truth.log_odds, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.log_z, truth.log_z, rtol=0, atol=1e-10)
    s = truth.supports
    across, down = result.pair
    torch.testing.assert_close(across, truth.mean(s[..., 1:] * s[..., :-1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(down, truth.mean(s[..., 1:, :] * s[..., :-1, :]), rtol=0, atol=1e-12)


def test_a_single_row_is_a_chain() -> None:
    """A stationary chain with field 0 has the ends' fields of the lattice, J / 2 less."""
    evidence = torch.randn(1, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lattice = marginals(Lattice(0.0, 1.7), evidence)
    chain = marginals(Chain.from_coupling(0.0, 1.7), evidence)
    torch.testing.assert_close(lattice.log_odds, chain.log_odds, rtol=0, atol=1e-11)
    torch.testing.assert_close(lattice.log_z, chain.log_z.squeeze(-1), rtol=0, atol=1e-11)


def test_coupling_and_field_of_each_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    evidence = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    field = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    coupling = torch.tensor([0.4, 1.9], dtype=torch.float64)
    together = marginals(Lattice(field, coupling), evidence)
    for i in range(2):
        alone = marginals(Lattice(field[i], float(coupling[i])), evidence[i])
        torch.testing.assert_close(together.log_odds[i], alone.log_odds)
        torch.testing.assert_close(together.log_z[i], alone.log_z)
        torch.testing.assert_close(together.pair[1][i], alone.pair[1])


def test_long_strip_in_float32_with_extreme_evidence() -> None:
    evidence = 40 * torch.randn(150, 10, generator=torch.Generator().manual_seed(0)).sign()
    result = marginals(Lattice(0.0, 1.2), evidence)
    assert bool(result.log_odds.isfinite().all())
    assert bool((result.extrinsic.abs() <= 2 * 1.2 + 1e-3).all())


def test_gradient_reaches_field_and_coupling() -> None:
    evidence = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)

    def outputs(field: torch.Tensor, coupling: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = marginals(Lattice(field, coupling), evidence)
        return result.log_z, result.log_odds, result.pair[0], result.pair[1]

    point = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.8)]
    assert torch.autograd.gradcheck(outputs, point)
