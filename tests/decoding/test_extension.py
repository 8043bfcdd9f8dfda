import itertools
import math

import pytest
import torch

from probcomp.decoding.extension import (
    best_extension,
    closed_form,
    contraction,
    lookahead_utilities,
    poisson_extension,
    utilities,
)
from probcomp.decoding.length import LengthPrior
from probcomp.errors import InputError

COSTS = {"cost_truncation": 1.0, "cost_position": 2e-5}


def test_grid_maximum_is_the_closed_form():
    hazard, beyond, forwards = 1 / 40, 0.6, 12.0
    survival = LengthPrior((hazard,)).log_survival(600)
    actions = torch.arange(0, 400)
    value = utilities(
        actions,
        torch.tensor([64]),
        torch.tensor([beyond]),
        survival,
        torch.tensor([forwards]),
        **COSTS,
    )
    want = closed_form(beyond, hazard, forwards, 1.0, 2e-5)
    assert abs(int(best_extension(actions, value)) - want) <= 1.0
    assert want > 50


def test_actions_past_the_table_are_never_taken():
    survival = LengthPrior.constant(1000.0).log_survival(80)
    actions = torch.tensor([0, 8, 64])
    value = utilities(
        actions, torch.tensor([64, 8]), torch.ones(2), survival, torch.ones(2), **COSTS
    )
    assert best_extension(actions, value).tolist() == [8, 64]


def test_nothing_beyond_means_no_growth():
    survival = LengthPrior.constant(50.0).log_survival(500)
    actions = torch.tensor([128, 0, 8])
    value = utilities(actions, torch.tensor([64]), torch.zeros(1), survival, torch.ones(1), **COSTS)
    assert best_extension(actions, value).tolist() == [0]


@pytest.mark.parametrize("again", [0.0, 0.01, 0.2])
def test_lookahead_is_the_best_of_all_policies(again):
    prior = LengthPrior((0.02, 0.02, 0.05) * 20)
    survival, beyond, forwards, start = prior.log_survival(24 + 16), 0.7, 40.0, 16
    costs = {"cost_truncation": 1.0, "cost_position": 2e-4}
    found = lookahead_utilities(
        start, beyond, survival, forwards, cost_again=again, grid=4, **costs
    )
    steps = len(found) - 1
    alive = [math.exp(survival[start + 4 * j] - survival[start]) for j in range(steps + 1)]
    price = costs["cost_position"] * forwards * 4
    for first in range(steps + 1):
        best = -math.inf
        # A policy says at each later width whether to grow once more if the text goes on.
        for policy in itertools.product((False, True), repeat=steps - first):
            value, j = -price * first, first
            for grow in policy:
                if not grow:
                    break
                value -= beyond * alive[j] * (price + again)
                j += 1
            best = max(best, value - beyond * alive[j])
        assert float(found[first]) == pytest.approx(best)
    with pytest.raises(InputError):
        lookahead_utilities(90, 0.5, survival, 1.0, **costs)


def test_growing_again_for_free_favours_short_first_steps():
    survival = LengthPrior.constant(30.0).log_survival(256)
    free = lookahead_utilities(64, 0.9, survival, 50.0, cost_again=0.0, **COSTS).argmax()
    dear = lookahead_utilities(64, 0.9, survival, 50.0, cost_again=0.5, **COSTS).argmax()
    assert int(free) < int(dear)


def test_contraction_drops_what_is_surely_filler():
    p_end = torch.zeros(3, 33)
    p_end[0, 10] = p_end[1, 31] = p_end[2, 10] = 1.0
    found = contraction(
        p_end,
        torch.tensor([32, 32, 32]),
        torch.tensor([22, 22, 4]),
        torch.full((3,), 10.0),
        **COSTS,
    )
    assert found.tolist() == [21, 0, 4]


def test_stable_windows_grow_by_more():
    found = poisson_extension(torch.tensor([1.0, 0.5, 0.0]), 8, 64)
    assert found.tolist() == [8, 36, 64]
