"""Gated chains against enumeration of gate and row together."""

import pytest
import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Chain, GatedChain
from tests.inference.enumeration import all_supports

EXACT = 1e-12


@pytest.mark.parametrize("gate", [0.02, 0.5, 0.97])
def test_row_and_gate_against_enumeration(gate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    evidence = 2 * torch.randn(8, generator=generator, dtype=torch.float64)
    chain, supports = Chain(0.1, 0.3), all_supports(8)
    open_weight = gate * chain.log_prob(supports).exp() * (supports @ evidence).exp()
    closed = 1 - gate
    z = open_weight.sum() + closed
    result = marginals(GatedChain(gate, chain), evidence)
    marginal = open_weight @ supports / z
    torch.testing.assert_close(result.probability, marginal, rtol=0, atol=EXACT)
    torch.testing.assert_close(result.gate.probability, open_weight.sum() / z, rtol=0, atol=EXACT)
    torch.testing.assert_close(result.log_z, z.log(), rtol=0, atol=1e-10)
    both = open_weight @ (supports[:, 1:] * supports[:, :-1]) / z
    torch.testing.assert_close(result.pair, both, rtol=0, atol=EXACT)


def test_gate_for_each_row_and_a_dead_row() -> None:
    gate = torch.tensor([0.5, 0.5, 0.1])
    evidence = torch.stack([torch.full((300,), -5.0), torch.full((300,), 5.0), torch.zeros(300)])
    result = marginals(GatedChain(gate, Chain(0.3, 0.3)), evidence)
    assert result.gate.probability[1] > 0.999
    assert result.gate.probability[2].item() == pytest.approx(0.1, abs=1e-4)
    assert bool(result.extrinsic.isfinite().all())
    # A row of weak evidence against it is closed as a whole, beyond what its weights say alone.
    assert bool((result.log_odds[0] < marginals(Chain(0.3, 0.3), evidence[0]).log_odds).all())
