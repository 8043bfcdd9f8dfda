"""The entry point: clipping, options, extrinsic messages, limits, prices."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.inference.supports import CLIP, marginals
from probcomp.priors import (
    Blocks,
    Chain,
    ExactK,
    GatedChain,
    Independent,
    Lattice,
    NofM,
    SupportPrior,
    Tree,
)

PRIORS: dict[str, tuple[SupportPrior, tuple[int, ...]]] = {
    "independent": (Independent(0.2), (8,)),
    "chain": (Chain(0.1, 0.3), (8,)),
    "gated": (GatedChain(0.3, Chain(0.1, 0.3)), (8,)),
    "narrow lattice": (Lattice(-0.4, 1.1), (4, 6)),
    "wide lattice": (Lattice(-0.4, 1.1), (14, 15)),
    "blocks": (Blocks((2, 2), Lattice(-0.4, 1.1)), (5, 6)),
    "n of m": (NofM(2, 4), (8,)),
    "exact k": (ExactK(3), (8,)),
    "tree": (Tree((-1, 0, 0, 1, 1, 2, -1, 6), 0.5, 0.8, 0.1), (8,)),
}

log_odds = st.lists(st.floats(-60, 60), min_size=8, max_size=8)


@pytest.mark.parametrize("name", [n for n in PRIORS if PRIORS[n][1] == (8,)])
@given(values=log_odds)
def test_probabilities_are_probabilities(name: str, values: list[float]) -> None:
    evidence = torch.tensor(values, dtype=torch.float64)
    result = marginals(PRIORS[name][0], evidence)
    assert bool(((result.probability >= 0) & (result.probability <= 1)).all())
    assert bool(result.log_odds.isfinite().all())
    assert result.log_z.item() <= evidence.clamp(0, CLIP).sum().item() + 1e-9
    if isinstance(result.pair, torch.Tensor):
        assert bool((result.pair >= 0).all())


@pytest.mark.parametrize("name", [n for n in PRIORS if PRIORS[n][1] == (8,)])
@given(values=log_odds, site=st.integers(0, 7), more=st.floats(0, 5))
def test_more_evidence_for_a_site_raises_its_probability(
    name: str, values: list[float], site: int, more: float
) -> None:
    evidence = torch.tensor(values, dtype=torch.float64)
    raised = evidence.clone()
    raised[site] += more
    before, after = marginals(PRIORS[name][0], evidence), marginals(PRIORS[name][0], raised)
    assert after.probability[site] >= before.probability[site] - 1e-12
    assert after.log_z >= before.log_z - 1e-9
    # What the rest says about the site does not hear the site's own evidence.
    assert after.extrinsic[site].item() == pytest.approx(before.extrinsic[site].item(), abs=1e-8)


@pytest.mark.parametrize("name", PRIORS)
def test_psi_does_not_move_while_evidence_is_frozen(name: str) -> None:
    """No double counting: what was passed up never enters what is passed down."""
    prior, shape = PRIORS[name]
    evidence = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = marginals(prior, evidence)
    again = marginals(prior, first.log_odds - first.extrinsic, start=first.state)
    # Loopy messages stop within 1e-8 of their fixed point; the rest is rounding.
    torch.testing.assert_close(again.extrinsic, first.extrinsic, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_float32_and_float64_agree(name: str) -> None:
    prior, shape = PRIORS[name]
    evidence = 3 * torch.randn(
        2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    single, double = marginals(prior, evidence.float()), marginals(prior, evidence)
    torch.testing.assert_close(single.probability.double(), double.probability, rtol=0, atol=1e-5)
    torch.testing.assert_close(single.log_z.double(), double.log_z, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_a_price_lowers_the_expected_count_at_the_rate_of_its_variance(name: str) -> None:
    """dE[c]/dprice = -Var(c), the variance from the second derivative of log Z."""
    prior, shape = PRIORS[name]
    generator = torch.Generator().manual_seed(2)
    evidence = torch.randn(shape, generator=generator, dtype=torch.float64)
    cost = torch.rand(shape, generator=generator, dtype=torch.float64)

    def at(price: float) -> tuple[float, float]:
        result = marginals(prior, evidence - price * cost, tolerance=1e-13, max_iterations=2000)
        return (result.probability * cost).sum().item(), result.log_z.sum().item()

    step = 1e-3
    counts = [at(price)[0] for price in (-1.0, -0.5, 0.0, 0.5, 1.0, 4.0)]
    assert all(a >= b - 1e-12 for a, b in pairwise(counts))
    slope = (at(0.5 + step)[0] - at(0.5 - step)[0]) / (2 * step)
    (_, low), (_, middle), (_, high) = at(0.5 - step), at(0.5), at(0.5 + step)
    variance = (low - 2 * middle + high) / step**2
    # Finite differences: cubic terms of order step^2, rounding of order 1e-15 / step^2.
    assert slope == pytest.approx(-variance, abs=2e-6, rel=2e-6)


def test_price_slope_equals_the_enumerated_variance() -> None:
    from probcomp.testing.enumeration import enumerate_posterior

    prior, evidence = Chain(0.2, 0.4), torch.linspace(-2, 2, 8, dtype=torch.float64)
    cost = torch.arange(1.0, 9.0, dtype=torch.float64)

    def expected(price: float) -> float:
        return (marginals(prior, evidence - price * cost).probability * cost).sum().item()

    truth = enumerate_posterior(prior, evidence - 0.3 * cost)
    total = truth.supports @ cost
    variance = truth.mean(total.square()) - truth.mean(total) ** 2
    step = 1e-4
    slope = (expected(0.3 + step) - expected(0.3 - step)) / (2 * step)
    assert slope == pytest.approx(-variance.item(), rel=1e-6)


def test_without_coupling_the_posterior_is_prior_plus_evidence() -> None:
    evidence = torch.linspace(-3, 3, 12, dtype=torch.float64)
    lam = 0.2
    for prior, shape in (
        (Independent(lam), (12,)),
        (Chain(lam, 1 - lam), (12,)),
        (Lattice(math.log(lam / (1 - lam)), 0.0), (3, 4)),
        (Tree.stationary((-1, *range(11)), lam, lam), (12,)),
    ):
        psi = marginals(prior, evidence.view(shape)).extrinsic
        expected = torch.full(shape, math.log(lam / (1 - lam)), dtype=torch.float64)
        torch.testing.assert_close(psi, expected, rtol=0, atol=1e-12)


def test_uniform_prior_sends_nothing_back() -> None:
    evidence = torch.linspace(-3, 3, 12, dtype=torch.float64).view(3, 4)
    for prior in (Independent(0.5), Chain(0.5, 0.5), Lattice(0.0, 0.0)):
        psi = marginals(prior, evidence).extrinsic
        torch.testing.assert_close(psi, torch.zeros_like(psi), rtol=0, atol=1e-14)


def test_sticky_chain_is_all_or_nothing() -> None:
    """p01, p10 -> 0 at fixed density: p = sigma(logit density + sum of evidence)."""
    evidence = torch.tensor([0.5, -1.0, 0.3, 0.4], dtype=torch.float64)
    together = torch.sigmoid(evidence.sum() + math.log(0.25 / 0.75))
    errors = []
    for eps in (1e-2, 1e-8):
        p = marginals(Chain(0.25 * eps, 0.75 * eps), evidence).probability
        errors.append((p - together).abs().max().item())
    assert errors[0] > 1e-3  # the limit is not reached early
    assert errors[1] < 1e-4


def test_evidence_beyond_the_clip_is_read_as_the_clip() -> None:
    evidence = torch.tensor([torch.inf, -torch.inf, 1e20, 0.0])
    result = marginals(Chain(0.1, 0.3), evidence)
    same = marginals(Chain(0.1, 0.3), torch.tensor([CLIP, -CLIP, CLIP, 0.0]))
    assert torch.equal(result.log_odds, same.log_odds)


BAD = {
    "prior": (lambda: marginals(0.1, torch.zeros(3)), "support prior, got float"),
    "list": (lambda: marginals(Independent(0.1), [0.0]), "tensor, got list"),
    "half": (lambda: marginals(Independent(0.1), torch.zeros(3).half()), "float16"),
    "NaN": (lambda: marginals(Independent(0.1), torch.tensor([0.0, torch.nan])), "1 of 2"),
    "dims": (lambda: marginals(Lattice(0.0, 1.0), torch.zeros(3)), "at least 2"),
    "empty": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3, 0)), "non-empty"),
    "damping": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3), damping=1.0), "damping"),
    "sweeps": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3), max_iterations=0), "at least 1"),
    "method": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3), method="fast"), "'fast'"),
    "policy": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3), on_unreliable="no"), "'no'"),
    "tolerance": (lambda: marginals(Chain(0.1, 0.1), torch.zeros(3), tolerance=-1.0), "tolerance"),
    "size": (lambda: marginals(ExactK(5), torch.zeros(3)), "at least 5 supports"),
    "groups": (lambda: marginals(NofM(2, 4), torch.zeros(6)), "divisible by 4"),
    "nodes": (lambda: marginals(Tree((-1, 0), 0.5, 0.5), torch.zeros(3)), "2 nodes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_reason(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(InputError, match=message):
        call()


def test_works_inside_inference_mode_and_without_gradient() -> None:
    evidence = torch.randn(14, 14, generator=torch.Generator().manual_seed(0))
    for prior in (Lattice(0.0, 1.0), GatedChain(0.5, Chain(0.1, 0.3)), ExactK(3), NofM(1, 2)):
        with torch.inference_mode():
            inside = marginals(prior, evidence)
        torch.testing.assert_close(inside.log_odds, marginals(prior, evidence).log_odds)
