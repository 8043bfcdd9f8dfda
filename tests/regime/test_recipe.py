"""Recipes: steps, schedules, knobs."""

import json

import pytest

from probcomp.errors import InputError
from probcomp.regime.knobs import KNOWN
from probcomp.regime.recipe import TURNABLE, Recipe


def test_every_batch_size_takes_equally_many_steps():
    recipe = Recipe(epochs=10, horizon=10, batch_size=32)
    for size in (8, 32, 128):
        turned = recipe.turned("batch_size", size)
        assert turned.batch_size == size
        assert turned.steps(640) == 200


def test_the_schedule_multiplies_at_its_shares():
    recipe = Recipe(lr=0.4, drops=((0.5, 0.1), (0.75, 0.5)))
    shares = (0, 0.49, 0.5, 0.74, 0.75, 1)
    expected = (0.4, 0.4, 0.04, 0.04, 0.02, 0.02)
    for share, rate in zip(shares, expected):
        assert recipe.rate(share) == pytest.approx(rate)


def test_json_brings_it_back():
    recipe = Recipe(epochs=3, horizon=9, dropout=0.2, drops=((0.3, 0.2),))
    assert Recipe.of(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_turnable_knobs_are_known_ones():
    assert set(TURNABLE) <= set(KNOWN)
    for knob in TURNABLE:
        Recipe().turned(knob, 0.5 if knob != "batch_size" else 7)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(InputError) as caught:
        Recipe(epochs=9, horizon=5, lr=-1, momentum=1.0)
    for word in ("epochs", "lr", "momentum"):
        assert word in str(caught.value)
    with pytest.raises(InputError, match="unknown recipe knob"):
        Recipe().turned("lrr", 1)


def test_batch_sizes_are_whole():
    assert Recipe().turned("batch_size", 31.99999999999999).batch_size == 32
    for value in (12.5, 31.9, float("nan"), float("inf")):
        with pytest.raises(InputError, match="no whole number"):
            Recipe().turned("batch_size", value)
