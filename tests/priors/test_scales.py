"""Heavy-tailed priors of scales: densities, draws, decomposition."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch

from probcomp.errors import InputError
from probcomp.priors import HalfCauchy, LogUniform, TruncatedLogUniform

DRAWS = 100_000
FAILURES = 1e-6
"""p-value below which a sampler counts as wrong."""


def test_half_cauchy_is_scipys() -> None:
    value = torch.linspace(0, 30, 61, dtype=torch.float64)
    expected = scipy.stats.halfcauchy(scale=0.3).logpdf(value)
    torch.testing.assert_close(HalfCauchy(0.3).log_prob(value), torch.tensor(expected))
    assert HalfCauchy().log_prob(torch.tensor(-1.0)) == -math.inf


@pytest.mark.parametrize("scale", [1e-3, 1.0, 2.5])
def test_the_root_of_gamma_times_inverse_gamma_is_half_cauchy(scale: float) -> None:
    draws = HalfCauchy(scale).sample((DRAWS,), generator=torch.Generator().manual_seed(0))
    assert scipy.stats.kstest(draws, scipy.stats.halfcauchy(scale=scale).cdf).pvalue > FAILURES


def test_truncated_log_uniform_has_mass_one_and_uniform_logs() -> None:
    prior = TruncatedLogUniform(-4.0, 1.0)

    def density(value: float) -> float:
        return math.exp(float(prior.log_prob(torch.tensor(value, dtype=torch.float64))))

    mass = scipy.integrate.quad(density, math.exp(-4), math.exp(1), limit=200)[0]
    assert mass == pytest.approx(1, abs=1e-8)
    outside = torch.tensor([math.exp(-4.1), math.exp(1.1)])
    assert prior.log_prob(outside).tolist() == [-math.inf, -math.inf]
    draws = prior.sample((DRAWS,), generator=torch.Generator().manual_seed(0)).log()
    assert scipy.stats.kstest(draws, scipy.stats.uniform(-4, 5).cdf).pvalue > FAILURES


def test_log_uniform_is_even_and_scale_free() -> None:
    prior, value = LogUniform(), torch.tensor([0.1, -0.1, 3.0])
    assert prior.log_prob(value)[0] == prior.log_prob(value)[1]
    # Equal ratios are equally far apart at any scale.
    gaps = prior.log_prob(value) - prior.log_prob(10 * value)
    torch.testing.assert_close(gaps, torch.full((3,), math.log(10)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HalfCauchy(0.0), "scale"),
        (lambda: TruncatedLogUniform(0.0, 0.0), "low must be below high"),
        (lambda: TruncatedLogUniform(-math.inf, 0.0), "low"),
    ],
)
def test_parameters_out_of_range(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()
