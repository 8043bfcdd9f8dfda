"""Tempering against known power laws, and what luck may do."""

import pytest
import torch

from probcomp.recipes.post_temper import LUCKY, Tempering


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_two_measurements_find_a_power_law(power: float) -> None:
    tempering = Tempering()
    for q in (0.5, 4.0):
        tempering.add(q, 0.3 * q**power)
    expected = 0.3 * 2.0**power
    assert float(tempering(torch.tensor(2.0).double())) == pytest.approx(expected)
    assert tempering.temperature(2.0) == pytest.approx(2.0 / expected)


def test_a_lucky_gain_does_not_make_an_axis_free() -> None:
    tempering = Tempering()
    tempering.add(2.0, -0.1)
    assert float(tempering(torch.tensor(2.0).double())) == pytest.approx(LUCKY * 2.0)
