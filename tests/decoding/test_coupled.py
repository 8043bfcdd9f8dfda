import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding import schedule
from probcomp.decoding.coupled import coupled, decay_coupling, markov_cut
from tests.decoding.enumeration import random_rows, subsets

SEEDS = st.integers(0, 10**6)


def chosen(mask):
    return [i for i, on in enumerate(mask[0].tolist()) if on]


@settings(max_examples=40)
@given(SEEDS, st.floats(0.05, 2.0), st.booleans())
def test_coupled_is_the_best_of_all_subsets(seed, gamma, with_own):
    eligible = random_rows(seed + 1, 1, 7) > -0.8
    width = eligible.shape[1]
    pair = random_rows(seed + 5, 1, width, width).abs()
    own = (
        random_rows(seed + 6, 1, width).abs() * 0.3 if with_own else torch.zeros(1, width).double()
    )
    found = chosen(coupled(pair, eligible, gamma, own))

    def cost(s):
        return sum(float(own[0, i]) for i in s) + sum(
            float(pair[0, i, j]) for i, j in itertools.pairwise(s)
        )

    options = [s for s in subsets(chosen(eligible)) if s]
    if not options:
        assert found == []
        return
    fits = [s for s in options if cost(s) <= gamma]
    size = max(map(len, fits), default=1)
    assert len(found) == size
    assert cost(tuple(found)) == pytest.approx(min(cost(s) for s in options if len(s) == size))


def test_coupling_decays_and_is_cut_by_visible_tokens():
    h = torch.tensor([[1.0, 2.0, 0.5, 1.0]])
    pair = decay_coupling(h, 2.0)
    assert float(pair[0, 0, 1]) == pytest.approx(1.0)
    assert float(pair[0, 0, 3]) == pytest.approx(math.exp(-1.0))
    cut = markov_cut(pair, torch.tensor([[True, True, False, True]]))
    assert float(cut[0, 0, 1]) > 0
    assert float(cut[0, 1, 3]) == float(cut[0, 0, 3]) == 0.0


def test_pairwise_information_misses_parity():
    """Three bits of even parity: every pair is independent, the triple is not."""
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    for a in range(2):
        for b in range(2):
            p[a, b, a ^ b] = 0.25
    pair = p.sum(2)
    information = float((pair * (pair / (pair.sum(1)[:, None] * pair.sum(0))).log()).sum())
    total_correlation = 3 * math.log(2) - 2 * math.log(2)
    zero = torch.full((1, 3, 3), information, dtype=torch.float64)
    taken = coupled(zero, torch.ones(1, 3, dtype=torch.bool), 0.1)
    assert information == pytest.approx(0.0)
    assert taken.all()
    assert total_correlation > 0.1  # the coupled rule is no bound here; the entropy rule holds
    h = torch.full((1, 3), math.log(2), dtype=torch.float64)
    assert schedule.entropy(h, torch.ones(1, 3, dtype=torch.bool), 0.1).sum() == 1
