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
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.linalg.eigvalsh(weight @ weight.T)
    torch.testing.assert_close(spectrum(weight), expected, atol=1e-10, rtol=1e-8)


def test_a_convolution_is_a_matrix_for_each_position_of_its_kernel():
    """Four diagonal matrices, whose eigenvalues together are a power law of known exponent.

    Read as one matrix [out, in * positions] it would have a quarter of the eigenvalues, sums of
    four each, and another exponent.
    """
    values = power_law(3.0, 240)
    shuffled = np.random.default_rng(0).permutation(values).reshape(2, 2, 60)
    weight = torch.zeros(60, 60, 2, 2, dtype=torch.float64)
    for i in range(2):
        for j in range(2):
            weight[:, :, i, j] = diagonal(shuffled[i, j])
    np.testing.assert_allclose(spectrum(weight), np.sort(values), rtol=1e-10)
    assert hill_alpha(weight) == pytest.approx(3.0, rel=0.03)
    assert hill_alpha(weight) == pytest.approx(hill_alpha(diagonal(values)), rel=1e-10)
    assert hill_alpha(weight.flatten(1)) > 3.5
    # As many as positions times the smaller side, whatever the kernel.
    assert spectrum(torch.rand(5, 3, 2)).shape == (6,)
    assert spectrum(torch.rand(5, 3, 2, 2, 2)).shape == (24,)


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
    # A kernel of nine positions has nine times six eigenvalues, one of a single position six.
    convolution = nn.Conv2d(6, 8, 3)
    assert mean_alpha(convolution) == pytest.approx(hill_alpha(convolution.weight))
    with pytest.raises(InputError, match="no layer"):
        mean_alpha(nn.Conv2d(6, 80, 1))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="matrix"):
        spectrum(torch.zeros(3))
    with pytest.raises(InputError):
        hill_alpha(torch.zeros(3))
    for value in (float("nan"), float("inf")):
        model = nn.Linear(60, 60)
        with torch.no_grad():
            model.weight[3, 4] = value
        for measure in (spectrum, hill_alpha, peak_alpha):
            with pytest.raises(InputError, match="diverged"):
                measure(model.weight)
        with pytest.raises(InputError, match="diverged"):
            mean_alpha(model)
    with pytest.raises(InputError, match="too few"):
        hill_alpha(torch.zeros(8, 8))
    with pytest.raises(InputError, match="at least 50"):
        peak_alpha(torch.eye(9))
