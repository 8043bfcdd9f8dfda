"""Calibration figures of cases whose answer is known."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.testing.calibration import calibration


def test_probabilities_that_are_true_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200_000, generator=generator, dtype=torch.double)
    s = torch.rand(200_000, generator=generator, dtype=torch.double) < p
    found = calibration(p, s)
    assert found.ece < 0.005  # ten bins of 20,000: each share is known to 0.0035
    assert found.brier == pytest.approx(1 / 6, abs=0.002)
    assert found.ratio == pytest.approx(1, abs=0.01)
    assert found.middle == pytest.approx(0.9, abs=0.01)
    assert sum(found.count) == 200_000


def test_a_case_by_hand() -> None:
    p = torch.tensor([0.05, 0.05, 0.95, 0.95])
    s = torch.tensor([False, True, True, True])
    found = calibration(p, s)
    assert found.ece == pytest.approx(0.5 * 0.45 + 0.5 * 0.05, abs=1e-6)
    assert found.brier == pytest.approx((0.05**2 * 3 + 0.95**2) / 4, abs=1e-6)
    assert found.ratio == pytest.approx(2 / 3, abs=1e-6)
    assert found.count == (2, 2)
    assert found.share == (0.5, 1.0)


def test_certainty_is_in_the_last_bin_and_nothing_on_has_no_ratio() -> None:
    found = calibration(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
    assert found.count == (1, 1)
    assert found.ratio == float("inf")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        calibration(torch.ones(3), torch.ones(4))
    with pytest.raises(InputError, match="one shape"):
        calibration(torch.ones(0), torch.ones(0))
