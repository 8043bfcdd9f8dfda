"""Fixed counts against enumeration and closed forms, up to ten thousand sites."""

import math

import pytest
import torch

from probcomp.inference.counting import fixed_count
from probcomp.inference.supports import marginals
from probcomp.priors import ExactK, NofM
from tests.inference.enumeration import enumerate_posterior


@pytest.mark.parametrize("k", range(8))
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_every_count_against_enumeration(k: int, scale: float) -> None:
    evidence = scale * torch.randn(
        7, generator=torch.Generator().manual_seed(k), dtype=torch.float64
    ).clamp(-1.3, 1.3)
    result, truth = marginals(ExactK(k), evidence), enumerate_posterior(ExactK(k), evidence)
    torch.testing.assert_close(result.probability, truth.probability, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.log_z, truth.log_z, rtol=1e-13, atol=1e-10)


def test_two_of_four_is_six_states() -> None:
    evidence = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    weights = {p: math.exp(float(evidence[p[0]] + evidence[p[1]])) for p in pairs}
    total = sum(weights.values())
    result = marginals(NofM(2, 4), evidence)
    for site in range(4):
        expected = sum(w for p, w in weights.items() if site in p) / total
        assert result.probability[site].item() == pytest.approx(expected, abs=1e-13)
    assert result.log_z.item() == pytest.approx(math.log(total / 6), abs=1e-13)


def test_large_count_against_a_stepwise_sum() -> None:
    """N = 500 (divide and conquer with bisection) against the plain recursion in log domain."""
    size, k = 500, 60
    evidence = 3 * torch.randn(size, generator=torch.Generator().manual_seed(0)).double()

    def log_sums(values: torch.Tensor) -> torch.Tensor:
        sums = torch.full((k + 1,), -torch.inf, dtype=torch.float64)
        sums[0] = 0
        for value in values:
            shifted = torch.cat([sums.new_tensor([-torch.inf]), sums[:-1] + value])
            sums = torch.logaddexp(sums, shifted)
        return sums

    extrinsic, log_z = fixed_count(evidence, k)
    total = log_sums(evidence)[k].item()
    combinations = math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1)
    assert log_z.item() == pytest.approx(total - combinations, abs=1e-8)
    for site in (0, 123, 499):
        rest = log_sums(torch.cat([evidence[:site], evidence[site + 1 :]]))
        assert extrinsic[site].item() == pytest.approx((rest[k - 1] - rest[k]).item(), abs=1e-9)


def test_ten_thousand_sites_add_up_to_the_count() -> None:
    evidence = 5 * torch.randn(10_000, generator=torch.Generator().manual_seed(0)).double()
    result = marginals(ExactK(1000), evidence)
    assert result.probability.sum().item() == pytest.approx(1000, abs=1e-6)


def test_certain_and_contradicted_evidence_stays_finite() -> None:
    evidence = torch.where(torch.arange(200) < 60, 40.0, -40.0).double()
    for k in (1, 60, 190):
        result = marginals(ExactK(k), evidence)
        assert bool(result.log_odds.isfinite().all())
        assert result.probability.sum().item() == pytest.approx(k, abs=1e-9)


def test_large_batches_are_cut_to_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = fixed_count(evidence, 4)
    monkeypatch.setattr("probcomp.inference.counting.ROOM", 1)
    for one, other in zip(whole, fixed_count(evidence, 4)):
        torch.testing.assert_close(one, other)
