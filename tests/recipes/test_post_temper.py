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


@pytest.mark.parametrize("power", [0.5, 1.7])
def test_outside_of_what_was_tried_no_removal_becomes_cheaper_than_in_proportion(
    power: float,
) -> None:
    tempering = Tempering()
    for q in (1.0, 4.0):
        tempering.add(q, 0.3 * q**power)
    far, small = 40.0, 0.1
    found = tempering(torch.tensor([small, far], dtype=torch.float64))
    assert float(found[0]) == pytest.approx(0.3 * small)
    assert float(found[1]) == pytest.approx(0.3 * 4.0**power * (far / 4.0) ** max(power, 1.0))


def test_the_slope_is_that_of_the_curve() -> None:
    tempering = Tempering()
    for q in (1.0, 4.0):
        tempering.add(q, 0.3 * q**1.5)
    for q in (0.5, 2.0, 9.0):
        step = 1e-5
        pair = tempering(torch.tensor([q - step, q + step], dtype=torch.float64))
        assert tempering.worth(q) == pytest.approx(float(pair.diff()) / (2 * step), rel=1e-5)


def test_a_removal_like_one_that_was_tried_need_not_be() -> None:
    tempering = Tempering()
    assert not tempering.near(1.0)
    tempering.add(1.0, 0.3)
    assert tempering.near(1.2)
    assert not tempering.near(2.0)
