"""Truncated log-normal scales against quadrature and sampling."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch

from probcomp.errors import InputError
from probcomp.inference.baselines.places import Place, Reader
from probcomp.inference.baselines.sbp import (
    SBPConfig,
    TruncatedGate,
    sbp,
    truncated_log_moment,
    truncated_normal_divergence,
)
from tests.inference.baselines.networks import SHORT, setting

LOW, HIGH = -20.0, 0.0
CASES = [(0.0, 0.01), (-0.5, 0.3), (0.0, 1.0), (-3.0, 2.0), (-10.0, 8.0), (-19.0, 15.0)]
QUADRATURE = 1e-7
"""What quadrature over the truncated Gaussian reaches in float64."""


def posterior(mean: float, sigma: float):
    return scipy.stats.truncnorm((LOW - mean) / sigma, (HIGH - mean) / sigma, mean, sigma)


def tensors(mean: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.tensor(mean, dtype=torch.float64),
        torch.tensor(math.log(sigma), dtype=torch.float64),
    )


@pytest.mark.parametrize(("mean", "sigma"), CASES)
def test_divergence(mean: float, sigma: float) -> None:
    exact = math.log(HIGH - LOW) - float(posterior(mean, sigma).entropy())
    found = float(truncated_normal_divergence(*tensors(mean, sigma), LOW, HIGH))
    assert found == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(("mean", "sigma"), CASES)
@pytest.mark.parametrize("power", [1, 2])
def test_moments(mean: float, sigma: float, power: int) -> None:
    """Quadrature over the log of the scale, in the interval where it has mass."""
    q = posterior(mean, sigma)
    low = max(LOW, mean - 12 * sigma)
    exact = scipy.integrate.quad(
        lambda u: math.exp(power * u + q.logpdf(u)), low, HIGH, limit=400, epsabs=0
    )[0]
    found = float(truncated_log_moment(*tensors(mean, sigma), LOW, HIGH, power))
    assert found == pytest.approx(math.log(exact), abs=QUADRATURE)


def gate() -> TruncatedGate:
    size = 3
    place = Place(
        "x", "units", size, (Reader("l", torch.arange(size)),), torch.ones(size), torch.ones(size)
    )
    made = TruncatedGate(place, SBPConfig())
    with torch.no_grad():
        made.location.copy_(torch.tensor([0.0, -0.7, -6.0]))
        made.log_sigma.copy_(torch.tensor([-3.0, -0.5, 1.0]))
    return made


def test_draws_follow_the_truncated_log_normal() -> None:
    made = gate()
    draws = made.draw(20_000, torch.Generator().manual_seed(0)).detach().log()
    for i, (mean, log_sigma) in enumerate(
        zip(made.location.tolist(), made.log_sigma.tolist(), strict=True)
    ):
        cdf = posterior(mean, math.exp(log_sigma)).cdf
        assert scipy.stats.kstest(draws[:, i], cdf).pvalue > 1e-6
    sampled = made.draw(400_000, torch.Generator().manual_seed(1)).detach().double()
    # A percent: the scales' deviation is at most their mean times three.
    torch.testing.assert_close(sampled.mean(0).float(), made.mean(), rtol=1e-2, atol=0)
    torch.testing.assert_close(sampled.var(0).float(), made.variance(), rtol=3e-2, atol=0)
    ratio = sampled.mean(0) / sampled.std(0)
    torch.testing.assert_close(made.score(), ratio.log().float(), rtol=0, atol=3e-2)


def test_draws_have_a_gradient() -> None:
    made = gate()
    made.draw(50, torch.Generator().manual_seed(0)).sum().backward()
    assert made.location.grad is not None
    assert bool(made.location.grad.isfinite().all())
    assert bool(made.log_sigma.grad.isfinite().all())


def test_a_noisy_unit_scores_below_the_threshold() -> None:
    made = gate()
    assert made.threshold == 0  # the log of a ratio of one
    assert made.score()[0] > made.threshold > made.score()[2]


def test_it_prunes_what_nothing_needs() -> None:
    found = sbp(setting(useless=8), SBPConfig(**SHORT, kl_weight=3.0))
    kept = found.masks["0.weight"].any(0)
    assert bool(kept[:4].all())
    assert int(kept[4:].sum()) < 8


def test_bad_interval() -> None:
    with pytest.raises(InputError, match="low must be below high"):
        SBPConfig(low=1.0)


def test_a_location_over_the_edge_is_brought_back_and_can_fall() -> None:
    """Clamping alone would leave it without a gradient for the rest of the run."""
    made = gate()
    with torch.no_grad():
        made.location.fill_(HIGH + 0.02)
    optimizer = torch.optim.Adam([made.location], lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        # a likelihood that wants the scales small
        torch.exp(made.parameters_in_range()[0]).sum().backward()
        optimizer.step()
        made.after_step()
        assert (made.location <= HIGH).all()
    assert (made.location < -0.03).all()
