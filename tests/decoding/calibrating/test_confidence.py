import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from probcomp.decoding.calibrating.confidence import (
    calibration_error,
    fit_error_curve,
    fit_temperature,
)
from probcomp.decoding.committing import expected_error


def draws(n, seed, law):
    generator = torch.Generator().manual_seed(seed)
    c = torch.rand(n, generator=generator) * 0.7 + 0.299
    return c, torch.rand(n, generator=generator) < law(c)


def test_the_curve_falls_and_follows_the_truth():
    def law(c):
        return (1 - c) ** 2  # under-confident: wrong less often than it says

    c, wrong = draws(20000, 0, law)
    curve = fit_error_curve(c, wrong)
    assert [b for _, b in curve] == sorted((b for _, b in curve), reverse=True)
    at = torch.tensor([0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    # 20,000 pairs in 24 bins: a standard error of at most 0.017, and the chords of a convex law.
    torch.testing.assert_close(expected_error(at, 1.0, curve), law(at), atol=0.03, rtol=0)
    held, missed = draws(20000, 1, law)
    before = calibration_error(1 - held, missed)
    assert calibration_error(expected_error(held, 1.0, curve), missed) < 0.1 * before


def test_it_is_isotonic_regression_on_bins():
    c, wrong = draws(20000, 2, lambda c: 1 - c)
    curve = fit_error_curve(c, wrong)
    other = IsotonicRegression(increasing=False).fit(c.numpy(), wrong.double().numpy())
    gap = expected_error(c.double(), 1.0, curve) - torch.from_numpy(other.predict(c.numpy()))
    # Steps of single pairs against chords between 24 bins: 0.7 / 24 of slope one, and noise.
    assert float(gap.abs().mean()) < 0.02


def test_past_the_last_knot_a_surer_token_is_not_charged_more():
    curve = ((0.5, 0.5), (0.9, 0.02))
    at = torch.tensor([0.2, 0.9, 0.99, 0.999], dtype=torch.float64)
    found = expected_error(at, 1.0, curve)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.02, 0.01, 0.001], dtype=torch.float64))
    assert float(expected_error(at, 1.0, ((0.5, 0.1),))[0]) == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_temperature_is_found(temperature):
    def law(c):
        return expected_error(c, temperature)

    found = fit_temperature(*draws(20000, 3, law))
    assert found == pytest.approx(temperature, rel=0.1)
