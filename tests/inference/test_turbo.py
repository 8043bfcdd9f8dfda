import math

import pytest
import torch

from probcomp.errors import DivergenceError, InputError
from probcomp.inference import marginals, turbo
from probcomp.priors import Chain, Independent, Lattice


class Known:
    """A weight side whose evidence is fixed: the alternation must be one pass of the prior."""

    def __init__(self, l: torch.Tensor) -> None:
        self.l, self.seen = l, []

    def start(self) -> int:
        return 0

    def update(self, state: int, psi: torch.Tensor) -> tuple[int, torch.Tensor]:
        self.seen.append(psi)
        return state + 1, self.l

    def bound(self, state: int, result) -> float:
        return float(result.log_z.sum())


@pytest.mark.parametrize(
    ("prior", "shape"),
    [(Independent(0.2), (5,)), (Chain(0.1, 0.3), (6,)), (Lattice(0.1, 0.8), (3, 4))],
    ids=["independent", "chain", "lattice"],
)
def test_fixed_evidence_gives_the_marginals_and_is_counted_once(prior, shape) -> None:
    l = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    module = Known(l)
    result = turbo(module, prior, size=shape, max_iterations=10)
    expected = marginals(prior, l)
    assert result.converged
    assert result.iterations == 2
    assert torch.allclose(result.marginals.log_odds, expected.log_odds, atol=1e-7)
    assert torch.allclose(result.psi + result.log_odds, result.marginals.log_odds)
    # What the weights are told never holds their own evidence.
    assert torch.allclose(module.seen[-1], expected.extrinsic, atol=1e-7)


class Repeating(Known):
    """Takes the whole belief for its prior and sends the product of posterior and prior."""

    sent: torch.Tensor | float = 0.0

    def update(self, state: int, psi: torch.Tensor) -> tuple[int, torch.Tensor]:
        state, l = super().update(state, psi)
        self.sent = l + 2 * (psi + self.sent)
        return state, self.sent


def test_a_message_that_repeats_what_it_was_told_saturates() -> None:
    """Honest messages on this lattice leave every belief open; repeated ones decide nearly all."""
    l = 0.5 * torch.randn(6, 8, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    prior = Lattice(0.0, 0.865)
    honest = turbo(Known(l), prior, size=(6, 8), max_iterations=8).probability
    assert float(honest.min()) > 0.21
    assert float(honest.max()) < 0.79
    repeated = turbo(Repeating(l), prior, size=(6, 8), max_iterations=8).probability
    decided = (repeated - 0.5).abs() > 0.49
    assert decided.double().mean() >= 0.96


def test_uniform_prior_leaves_the_weight_side_alone() -> None:
    """Limit: no field, no coupling: psi = 0."""
    l = torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    result = turbo(Known(l), Lattice(0.0, 0.0), size=(3, 4))
    assert result.psi.abs().max() < 1e-12
    assert torch.allclose(result.probability, torch.sigmoid(l))


def test_all_or_nothing_chain_adds_the_evidence() -> None:
    """Limit: p01, p10 -> 0 at density lam: sigma(logit lam + sum l); the switch rate is 1e-8."""
    l = torch.tensor([0.7, -0.4, 0.5, 0.1], dtype=torch.double)
    lam = 0.3
    result = turbo(Known(l), Chain(lam * 1e-8, (1 - lam) * 1e-8), size=(4,))
    expected = torch.sigmoid(torch.tensor(lam).logit() + l.sum())
    assert torch.allclose(result.probability, expected.expand(4).double(), atol=1e-4)


def test_start_inner_and_limits() -> None:
    module = Known(torch.zeros(3, dtype=torch.double))
    turbo(module, Independent(0.2), size=(3,), probability=0.9, inner=3, max_iterations=1)
    assert len(module.seen) == 3
    assert torch.allclose(torch.sigmoid(module.seen[0]), torch.tensor(0.9).double())
    for options in ({"max_iterations": 0}, {"inner": 0}, {"probability": 1.0}):
        with pytest.raises(InputError, match="must be"):
            turbo(module, Independent(0.2), size=(3,), **options)
    with pytest.raises(DivergenceError, match="iteration 1"):
        turbo(Known(torch.full((3,), math.nan)), Independent(0.2), size=(3,))
