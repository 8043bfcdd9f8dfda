"""Lattices: the symmetric parametrisation, the normaliser, exact draws."""

import math

import pytest
import torch

from probcomp.errors import ConvergenceError, InputError
from probcomp.priors import Lattice
from probcomp.priors.lattice import ordering_coupling
from probcomp.testing.enumeration import all_supports

STRIP_ERROR = 1e-3  # nats a row, of the continuation from 12 sites; see Lattice.log_normaliser


@pytest.mark.parametrize("coupling", [-1.0, 0.0, 1.2, 4.0])
def test_field_zero_is_a_marginal_of_one_half(coupling: float) -> None:
    prior, supports = Lattice(0.0, coupling), all_supports(3, 4)
    marginal = torch.tensordot(prior.log_prob(supports).exp(), supports, dims=1)
    torch.testing.assert_close(marginal, torch.full_like(marginal, 0.5), rtol=0, atol=1e-12)


def test_flipping_all_supports_flips_the_field() -> None:
    supports = all_supports(3, 3)
    up, down = Lattice(0.8, 1.1).log_prob(supports), Lattice(-0.8, 1.1).log_prob(1 - supports)
    torch.testing.assert_close(up, down, rtol=0, atol=1e-12)


def test_no_coupling_is_independent() -> None:
    supports = all_supports(2, 3)
    p = 1 / (1 + math.exp(-0.4))
    on = supports.sum((-2, -1))
    expected = on * math.log(p) + (6 - on) * math.log(1 - p)
    torch.testing.assert_close(Lattice(0.4, 0.0).log_prob(supports), expected)


@pytest.mark.parametrize(("field", "coupling"), [(0.0, 0.5), (0.0, 1.2), (-1.5, 1.2), (0.3, -1.0)])
def test_wide_normaliser_continues_narrow_ones(
    field: float, coupling: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continue from 9 sites to 12, where the exact value is known."""
    rows = 15
    exact = Lattice(field, coupling).log_normaliser(rows, 12).item()
    monkeypatch.setattr("probcomp.priors.transfer.MAX_WIDTH", 9)
    continued = Lattice(field, coupling)._continued(rows, 12).item()
    assert continued == pytest.approx(exact, abs=STRIP_ERROR * rows)


def test_wide_normaliser_without_coupling_is_exact() -> None:
    value = Lattice(0.5, 0.0).log_normaliser(40, 30).item()
    assert value == pytest.approx(1200 * math.log1p(math.exp(0.5)), rel=1e-12)


def test_wide_lattice_with_a_field_of_its_own_at_each_site_is_refused() -> None:
    prior = Lattice(torch.zeros(13, 13), 1.0)
    with pytest.raises(InputError, match="energy"):
        prior.log_prob(torch.zeros(13, 13))
    assert prior.energy(torch.zeros(13, 13)).item() == 0


def test_field_of_each_site_and_coupling_of_each_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    coupling = torch.tensor([0.3, 1.1], dtype=torch.float64)
    supports = all_supports(3, 3)[:, None].expand(-1, 2, 3, 3)
    log_prob = Lattice(field, coupling).log_prob(supports)
    total = torch.logsumexp(log_prob, 0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)
    alone = Lattice(field[1], 1.1).log_prob(supports[:, 1])
    torch.testing.assert_close(log_prob[:, 1], alone)


@pytest.mark.parametrize(("field", "coupling"), [(0.0, 1.2), (-0.5, 1.0), (0.2, -1.0)])
def test_draws_from_the_past_have_the_marginals_of_narrow_lattices(
    field: float, coupling: float
) -> None:
    """The wide sampler on a lattice whose pairs are known by enumeration."""
    prior, supports = Lattice(field, coupling), all_supports(3, 4)
    weight = prior.log_prob(supports).exp()
    draws = prior._from_the_past((4000, 3, 4), torch.Generator().manual_seed(0)).double()
    flat, known = draws.flatten(1), supports.flatten(1)
    found, expected = flat.T @ flat / 4000, (known * weight[:, None]).T @ known
    # 144 pairs at five standard errors: one false alarm in 10^4 runs; the seed is fixed.
    spread = (expected * (1 - expected) / 4000).sqrt()
    assert bool(((found - expected).abs() <= 5 * spread).all())


def test_wide_draws_are_reproducible_and_clustered() -> None:
    def agreement(coupling: float) -> float:
        draws = Lattice(0.0, coupling).sample((40, 50), generator=torch.Generator().manual_seed(0))
        return (draws[1:] == draws[:-1]).double().mean().item()

    assert agreement(0.0) < 0.54 < 0.6 < agreement(1.2)
    one = Lattice(0.0, 1.2).sample((20, 30), generator=torch.Generator().manual_seed(5))
    two = Lattice(0.0, 1.2).sample((20, 30), generator=torch.Generator().manual_seed(5))
    assert torch.equal(one, two)


def test_ordered_lattice_refuses_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probcomp.priors.lattice.MAX_PASSES", 64)
    with pytest.raises(ConvergenceError, match="no exact draw of 20 x 20"):
        Lattice(0.0, 4.0).sample((20, 20), generator=torch.Generator().manual_seed(0))


def test_ordering_coupling_is_onsagers() -> None:
    assert ordering_coupling() == pytest.approx(1.7627, abs=1e-4)
