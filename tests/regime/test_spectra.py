"""Tail exponents of spectra whose exponent is known."""

import numpy as np
import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.regime.spectra import hill_alpha, mean_alpha, peak_alpha, spectrum


def power_law(exponent: float, count: int = 200, low: float = 1.0) -> np.ndarray:
    """Quantiles of ``p(l) ~ l^-exponent`` above ``low``."""
    share = (np.arange(count) + 0.5) / count
    return low * (1 - share) ** (-1 / (exponent - 1))


def diagonal(eigenvalues: np.ndarray) -> torch.Tensor:
    return torch.diag(torch.tensor(np.sqrt(eigenvalues)))


def test_the_spectrum_is_that_of_the_gram_matrix():
    weight = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    flat = weight.flatten(1)
    expected = torch.linalg.eigvalsh(flat @ flat.T)
    torch.testing.assert_close(spectrum(weight), expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 5.0])
def test_both_estimators_recover_a_power_law(exponent):
    weight = diagonal(power_law(exponent))
    # The estimators are off by O(1 / k) on quantiles: k = 100 and 200.
    assert hill_alpha(weight) == pytest.approx(exponent, rel=0.03)
    alpha, distance = peak_alpha(weight)
    assert alpha == pytest.approx(exponent, rel=0.03)
    assert distance < 0.02


def test_the_peak_estimator_leaves_the_bulk_out():
    bulk = np.geomspace(0.01, 1, 100)
    weight = diagonal(np.concatenate([bulk, power_law(2.5, 300)]))
    alpha, distance = peak_alpha(weight, bins=40)
    assert alpha == pytest.approx(2.5, rel=0.05)
    assert distance < 0.05


def test_scale_does_not_matter():
    weight = diagonal(power_law(3.0))
    assert hill_alpha(7 * weight) == pytest.approx(hill_alpha(weight))
    assert peak_alpha(7 * weight)[0] == pytest.approx(peak_alpha(weight)[0], rel=0.02)


def test_the_mean_is_over_layers_that_are_large_enough():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 64), nn.Linear(64, 70), nn.Linear(70, 3))
    expected = np.mean([hill_alpha(model[0].weight), hill_alpha(model[1].weight)])
    assert mean_alpha(model) == pytest.approx(expected)
    with pytest.raises(InputError, match="no layer"):
        mean_alpha(nn.Linear(3, 3))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="matrix"):
        spectrum(torch.zeros(3))
    with pytest.raises(InputError):
        hill_alpha(torch.zeros(3))
    with pytest.raises(InputError, match="too few"):
        hill_alpha(torch.zeros(8, 8))
    with pytest.raises(InputError, match="at least 50"):
        peak_alpha(torch.eye(9))
