import math
from itertools import pairwise

import pytest
import torch

from probcomp.recipes.turbo_checking import EACH, EDGES, agrees, check, temper


def test_a_temperature_comes_from_one_half_and_is_checked_on_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    promised = (10 * torch.rand(40, generator=generator) + 0.1).tolist()
    assert temper([(p, p / 4) for p in promised]) == pytest.approx((4.0, 1.0))
    mixed = [(p, p / (4 if k % 2 == 0 else 2)) for k, p in enumerate(promised)]
    assert temper(mixed) == pytest.approx((4.0, 2.0))
    assert temper([(p, -p) for p in promised]) == (1.0, None)
    assert temper([(1.0, 1.0)] * 4) == (1.0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_removal_that_is_not_finite_leaves_the_temperature_at_one(bad: float, place: int) -> None:
    pairs = [(1.0, 0.5)] * 40
    pairs[place] = (1.0, bad)
    assert temper(pairs) == (1.0, None)
    assert check([(1.0, bad)] * 40) == [None] * (len(EDGES) - 1)


def removals(ratios: list[float]) -> list[tuple[float, float]]:
    """As many removals as are made, each with the ratio of its bin."""
    middles = [math.sqrt(low * high) for low, high in pairwise(EDGES)]
    return [(m, r * m) for m, r in zip(middles, ratios, strict=True) for _ in range(EACH)]


def test_every_range_of_promised_losses_has_to_agree() -> None:
    bins = check(removals([1.1, 0.9, 1.0, 1.0]))
    assert bins == pytest.approx([1.1, 0.9, 1.0, 1.0])
    assert agrees(1.0, bins)
    # One nat decides, but weighs next to nothing in the slope over all.
    bad = removals([1.0, 3.0, 1.0, 1.0])
    temperature, slope = temper(bad)
    assert slope == pytest.approx(1)
    bins = check([(p / temperature, m) for p, m in bad])
    assert bins == pytest.approx([1, 3, 1, 1], rel=0.02)
    assert not agrees(slope, bins)


def test_a_range_without_weights_is_not_checked() -> None:
    pairs = removals([1.0] * 4)[EACH:]
    bins = check(pairs)
    assert bins[0] is None
    assert bins[1:] == pytest.approx([1.0] * 3)
    assert not agrees(1.0, bins)
    assert not agrees(None, [1.0] * 4)
