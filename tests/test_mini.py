"""The small core against the full implementation, piece by piece."""

import pytest
import torch

from probcomp import mini
from probcomp.inference.supports import marginals
from probcomp.inference.training.evidence import CollapsedGamma, Scale, Weights
from probcomp.priors import Chain, SpikeSlabGamma
from tests.inference.enumeration import enumerate_posterior

SAME = 1e-10
P01, P10 = 0.08, 0.26


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 9, 150])
def test_message_passing(size: int) -> None:
    l = 3 * normal(size)
    psi, log_z = mini.pass_messages(l, P01, P10)
    full = marginals(Chain(P01, P10), l)
    torch.testing.assert_close(psi, full.extrinsic, rtol=0, atol=SAME)
    assert log_z == pytest.approx(full.log_z.item(), abs=SAME)


def test_message_passing_is_exact() -> None:
    l = 2 * normal(10)
    psi, _ = mini.pass_messages(l, P01, P10)
    truth = enumerate_posterior(Chain(P01, P10), l)
    torch.testing.assert_close(torch.sigmoid(psi + l), truth.probability, rtol=0, atol=1e-12)


def test_evidence_and_precision() -> None:
    mean, variance = normal(20), normal(20, seed=1).square() + 1e-3
    psi, slab, kappa = normal(20, seed=2), 0.7, 0.01
    weights = Weights(mean, variance, torch.ones(20), torch.full((20,), 0.5))
    full = CollapsedGamma().update(weights, psi, Scale(slab, kappa))
    square = mean.square() + variance
    l = mini.evidence(square, slab, kappa)
    torch.testing.assert_close(l, full.log_odds, rtol=0, atol=SAME)
    rho = mini.precision(square, torch.sigmoid(psi + l), slab, kappa)
    torch.testing.assert_close(rho, full.precision, rtol=SAME, atol=0)


def test_evidence_of_a_known_weight_is_that_of_the_prior() -> None:
    weight = normal(20)
    prior = SpikeSlabGamma.for_scale(0.7, kappa=0.01)
    l = mini.evidence(weight.square(), 0.7, 0.01)
    torch.testing.assert_close(l, prior.evidence(weight), rtol=0, atol=SAME)


def test_alternation_with_the_full_pieces_ends_at_the_same_place() -> None:
    x, y, noise = normal(40, 12), normal(40, seed=3), 0.5
    l, psi, mean = mini.alternate(x, y, noise=noise, p01=P01, p10=P10, slab=0.7, kappa=0.01)
    form, chain, scale = CollapsedGamma(), Chain(P01, P10), Scale(0.7, 0.01)
    full_psi = marginals(chain, torch.zeros(12, dtype=torch.float64)).extrinsic
    rho = torch.full((12,), 1 / 0.7, dtype=torch.float64)
    for _ in range(30):
        covariance = torch.linalg.inv(x.T @ x / noise + torch.diag(rho))
        full_mean = covariance @ (x.T @ y / noise)
        weights = Weights(full_mean, covariance.diagonal(), rho, torch.sigmoid(full_psi))
        full_l = form.update(weights, full_psi, scale).log_odds
        full_psi = marginals(chain, full_l).extrinsic
        rho = form.update(weights, full_psi, scale).precision
    torch.testing.assert_close(l, full_l, rtol=0, atol=SAME)
    torch.testing.assert_close(psi, full_psi, rtol=0, atol=SAME)
    torch.testing.assert_close(mean, full_mean, rtol=0, atol=SAME)


@pytest.mark.parametrize("budget", [3, 8])
def test_price_meets_the_budget_like_the_full_solver(budget: int) -> None:
    from probcomp.allocation.price import solve_price

    l, chain = 2 * normal(30) + 1, Chain(P01, P10)
    price = mini.solve_price(l, budget, P01, P10)
    assert mini.expected_on(l, price, P01, P10).sum().item() == pytest.approx(budget, abs=1e-9)

    def cost(value: float) -> float:
        return marginals(chain, l - value).probability.sum().item()

    assert solve_price(cost, budget, tolerance=1e-9).value == pytest.approx(price, abs=1e-6)
    assert int(mini.keep(l, budget, P01, P10).sum()) == budget


def test_no_price_where_the_budget_does_not_bind() -> None:
    assert mini.solve_price(-5 * torch.ones(10, dtype=torch.float64), 9, P01, P10) == 0


def test_neighbours_help_where_the_truth_is_clustered() -> None:
    """Five data sets: of 14 needed weights the chain finds 13.2 on average, 10.6 without it."""

    def found(p01: float, p10: float) -> float:
        results = [mini.demonstrate(seed, p01, p10) for seed in range(5)]
        return sum(int((truth & mask).sum()) for truth, mask in results) / len(results)

    assert found(0.08, 0.26) >= found(0.235, 0.765) + 1.5


def test_prints_its_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    mini.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[-1].endswith("truth")


def test_stays_short() -> None:
    from pathlib import Path

    assert len(Path(mini.__file__).read_text().splitlines()) <= 200
