"""Chains as transitions and as pairwise models; gates."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.priors import Chain, GatedChain
from probcomp.testing.enumeration import all_supports

EXACT = 1e-12  # double precision rounding of sums of 2^7 terms
inside = st.floats(0.01, 0.99)


@given(p01=inside, p10=inside)
def test_transitions_and_pairs_are_the_same_joint_table(p01: float, p10: float) -> None:
    chain, supports = Chain(p01, p10), all_supports(7)
    coupling, end, interior = chain.pairwise(supports)
    field = interior.expand(7).clone()
    field[0] = field[-1] = end
    pairs = (supports[:, 1:] * supports[:, :-1]).sum(-1)
    table = supports @ field + coupling * pairs + chain.log_zero(7, supports)
    torch.testing.assert_close(table.exp(), chain.log_prob(supports).exp(), rtol=0, atol=EXACT)


def test_known_values_of_the_pairwise_form() -> None:
    """p01 = 0.1, p10 = 0.3: J = ln 21, ends ln(1/9), interior ln(1/9) + ln(1/3)."""
    coupling, end, interior = Chain(0.1, 0.3).pairwise(torch.zeros(1, dtype=torch.float64))
    assert coupling.item() == pytest.approx(math.log(21), abs=EXACT)
    assert end.item() == pytest.approx(-math.log(9), abs=EXACT)
    assert interior.item() == pytest.approx(-math.log(27), abs=EXACT)


@given(field=st.floats(-4, 4), coupling=st.floats(-4, 8))
def test_from_coupling_inverts_its_definition(field: float, coupling: float) -> None:
    chain = Chain.from_coupling(field, coupling)
    assert isinstance(chain.p01, float)
    found, _, interior = chain.pairwise(torch.zeros(1, dtype=torch.float64))
    assert found.item() == pytest.approx(coupling, abs=1e-9)
    assert interior.item() == pytest.approx(field - coupling, abs=1e-9)


def test_from_coupling_limits() -> None:
    for coupling in (-2.0, 0.0, 3.0):
        assert Chain.from_coupling(0.0, coupling).stationary == pytest.approx(0.5, abs=EXACT)
    free = Chain.from_coupling(0.7, 0.0)
    assert free.p01 == pytest.approx(1 / (1 + math.exp(-0.7)), abs=EXACT)
    assert free.p01 + free.p10 == pytest.approx(1, abs=EXACT)


@given(p01=inside, p10=inside)
def test_every_site_has_the_stationary_marginal(p01: float, p10: float) -> None:
    chain, supports = Chain(p01, p10), all_supports(7)
    marginal = chain.log_prob(supports).exp() @ supports
    expected = torch.full((7,), p01 / (p01 + p10), dtype=torch.float64)
    torch.testing.assert_close(marginal, expected, rtol=0, atol=EXACT)


def test_runs_of_ones_have_mean_length_one_over_p10() -> None:
    draws = Chain(0.1, 0.25).sample((200, 500), generator=torch.Generator().manual_seed(0))
    ends = (draws[:, :-1] & ~draws[:, 1:]).sum().item()
    ones = draws[:, :-1].sum().item()
    # A geometric mean length of 4 over about 5700 runs: standard error 0.046, five of them.
    assert ones / ends == pytest.approx(4, abs=0.25)


def test_parameters_for_each_row() -> None:
    p01 = torch.tensor([0.1, 0.9], dtype=torch.float64)
    p10 = torch.tensor([0.3, 0.2], dtype=torch.float64)
    support = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]], dtype=torch.float64)
    together = Chain(p01, p10).log_prob(support)
    for row in range(2):
        alone = Chain(float(p01[row]), float(p10[row])).log_prob(support[row])
        torch.testing.assert_close(together[row], alone)
    draws = Chain(p01, p10).sample((4000, 2, 6), generator=torch.Generator().manual_seed(1))
    rate = draws.double().mean((0, 2))
    torch.testing.assert_close(rate, p01 / (p01 + p10), rtol=0, atol=0.03)


def test_closed_gates_leave_empty_rows() -> None:
    prior = GatedChain(0.25, Chain(0.999, 0.001))
    draws = prior.sample((4000, 12), generator=torch.Generator().manual_seed(0))
    open_rows = draws.any(-1).double().mean().item()
    # Five standard errors of a share of one quarter.
    assert open_rows == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 4000))


def test_a_gate_for_each_row() -> None:
    gate = torch.tensor([0.2, 0.7], dtype=torch.float64)
    prior = GatedChain(gate, Chain(0.1, 0.3))
    empty = torch.zeros(2, 5, dtype=torch.float64)
    chain = Chain(0.1, 0.3).log_prob(empty).exp()
    torch.testing.assert_close(prior.log_prob(empty).exp(), (1 - gate) + gate * chain)
