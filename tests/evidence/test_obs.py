import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from probcomp.errors import InputError
from probcomp.evidence.obs import Elimination, eliminate, saliency
from probcomp.inference.quadratic import Quadratic, refit
from tests.evidence.seen import rows, weights

ROUNDING = 1e-8  # inverses in float64 of matrices with a condition number of about 1e3
DAMPING = 0.01


def quadratic(inputs: int, seed: int = 0, common: float = 2.0) -> Quadratic:
    x = rows(50, inputs, seed, common)
    return Quadratic(weights(4, inputs, seed + 1), x.T @ x, DAMPING)


def least_error(q: Quadratic, gone: Tensor) -> float:
    """Damped squared error, halved, of the best weights without some columns: normal equations."""
    kept = torch.ones(q.size, dtype=torch.bool)
    kept[gone.flatten()] = False
    a = q.precision
    new = torch.zeros_like(q.weight)
    new[:, kept] = torch.linalg.solve(a[kept][:, kept], (q.weight @ a)[:, kept].T).T
    change = new - q.weight
    return 0.5 * float(((change @ a) * change).sum())


@pytest.mark.parametrize("width", [1, 3])
def test_saliency_is_the_error_of_the_best_refit(width: int):
    q = quadratic(6 * width)
    columns = torch.randperm(6 * width, generator=torch.Generator().manual_seed(3)).view(6, width)
    found = saliency(q, columns)
    for unit in range(6):
        naive = least_error(q, columns[unit])
        assert abs(float(found[unit]) - naive) <= ROUNDING * naive


@given(seed=st.integers(0, 30), width=st.sampled_from([1, 2]), readers=st.sampled_from([1, 2]))
def test_the_first_to_go_is_the_cheapest_by_brute_force(seed: int, width: int, readers: int):
    factors = [
        (quadratic(5 * width, seed + 100 * r), torch.arange(5 * width).view(5, width))
        for r in range(readers)
    ]
    costs = [sum(least_error(q, c[unit]) for q, c in factors) for unit in range(5)]
    found = eliminate(factors, removals=1)
    assert int(found.order[0]) == min(range(5), key=costs.__getitem__)
    assert abs(float(found.cost[0]) - min(costs)) <= ROUNDING * min(costs)


@pytest.mark.parametrize("width", [1, 3])
def test_costs_add_up_to_the_refit_of_the_rest_at_every_number(width: int):
    q = quadratic(6 * width)
    columns = torch.arange(6 * width).view(6, width)
    found = eliminate([(q, columns)], removals=6)
    for count in range(1, 7):
        gone = columns[found.order[:count]]
        total = float(found.cost[:count].sum())
        naive = least_error(q, gone)
        assert abs(total - naive) <= ROUNDING * naive
        kept = torch.ones(q.size, dtype=torch.bool)
        kept[gone.flatten()] = False
        change = refit(q, kept) - q.weight
        refitted = 0.5 * float(((change @ q.precision) * change).sum())
        assert abs(total - refitted) <= ROUNDING * naive
    assert abs(float(found.cost.sum()) - found.energy) <= ROUNDING * found.energy


def test_greedy_is_near_the_best_pair():
    worst = 1.0
    for seed in range(10):
        q = quadratic(6, seed)
        found: Elimination = eliminate([(q, torch.arange(6)[:, None])], removals=2)
        pairs = itertools.combinations(range(6), 2)
        best = min(least_error(q, torch.tensor(pair)) for pair in pairs)
        worst = max(worst, float(found.cost.sum()) / best)
    assert worst < 1.5  # greedy is no optimum, and on these problems it is never far from it


def test_bad_input():
    q = quadratic(4)
    columns = torch.arange(4)[:, None]
    with pytest.raises(InputError, match="between 0 and 4"):
        eliminate([(q, columns)], removals=5)
    with pytest.raises(InputError, match="share its units"):
        eliminate([(q, columns), (q, columns[:3])])
    with pytest.raises(InputError, match="share its units"):
        eliminate([])
    assert eliminate([(q, columns)], removals=0).order.tolist() == []
