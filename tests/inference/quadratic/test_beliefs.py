"""Beliefs under evidence of thousands of nats, where `marginals` would clip."""

import pytest
import torch

from probcomp.inference import marginals
from probcomp.inference.quadratic.beliefs import beliefs, messages
from probcomp.priors import Blocks, Chain, ExactK, Independent, Lattice, NofM


def evidence(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.double)


@pytest.mark.parametrize(
    "prior",
    [
        Independent(0.3),
        Chain(0.1, 0.3),
        Lattice(0.2, 0.8),
        NofM(2, 4),
        ExactK(3),
        Blocks((2, 2), Lattice(0.0, 0.5)),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_small_evidence_gives_the_marginals(prior) -> None:
    l = evidence(4, 8)
    odds, _ = beliefs(prior, l)
    torch.testing.assert_close(odds, marginals(prior, l).log_odds, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", [None, Independent(0.3), Chain(0.1, 0.3), Lattice(0.0, 0.8)])
def test_large_evidence_keeps_its_order(prior) -> None:
    l = torch.linspace(100, 5000, 12, dtype=torch.double).view(3, 4)
    odds, _ = beliefs(prior, l)
    assert bool((odds.flatten().diff() > 0).all())


@pytest.mark.parametrize(("prior", "kept"), [(NofM(2, 4), 2), (ExactK(2), 2)])
def test_counts_see_differences_far_above_the_clip(prior, kept: int) -> None:
    l = torch.tensor([[1000.0, 3000.0, 1200.0, 900.0], [-900.0, -50.0, -700.0, -2000.0]])
    odds, _ = beliefs(prior, l)
    assert (torch.sigmoid(odds) > 0.5).tolist() == [
        [False, True, True, False],
        [False, True, True, False],
    ]
    assert float(torch.sigmoid(odds).sum()) == pytest.approx(2 * kept, abs=1e-5)


def test_tiles_sum_before_the_clip() -> None:
    """Nine entries at -100 outweigh one at +500; clipped one by one they would win by more."""
    l = torch.full((2, 5), -100.0, dtype=torch.double)
    l[0, 0] = 1500.0
    odds, _ = beliefs(Blocks((2, 5), Independent(0.5)), l)
    torch.testing.assert_close(odds, torch.full_like(l, 1500.0 - 900.0))


def test_a_vector_is_the_only_row_of_a_lattice() -> None:
    l = evidence(7)
    odds, result = beliefs(Lattice(0.3, 0.7), l)
    torch.testing.assert_close(odds, marginals(Lattice(0.3, 0.7), l[None]).log_odds[0])
    assert messages(result) is None  # narrow lattices are exact and keep no messages


def test_messages_make_a_warm_start() -> None:
    l, prior = evidence(15, 20), Lattice(0.0, 1.0)
    cold, result = beliefs(prior, l)
    warm, again = beliefs(prior, l, start=messages(result))
    assert again.iterations <= result.iterations
    torch.testing.assert_close(cold, warm, rtol=0, atol=1e-6)
