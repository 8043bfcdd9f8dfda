import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.pairwise import (
    SLACK,
    end_coupling,
    pairwise,
    profile_coupling,
    unmediated,
)


def test_profile_sits_at_its_gaps():
    h = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
    m = profile_coupling(h, (0.1, 0.5))[0]
    assert float(m[0, 1]) == pytest.approx(0.1)
    assert float(m[1, 3]) == pytest.approx(0.25)
    assert float(m[0, 3]) == 0.0
    assert m.equal(m.T)
    assert float(m.diagonal().abs().sum()) == 0.0


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.0, 3.0))
def test_the_set_is_within_the_budget_and_cannot_be_extended(seed, gamma):
    generator = torch.Generator().manual_seed(seed)
    half = torch.rand(1, 6, 6, generator=generator, dtype=torch.float64)
    m = half + half.mT
    m[0].fill_diagonal_(0.0)
    h = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    may = torch.rand(1, 6, generator=generator) < 0.7
    chosen = pairwise(m, h, may, gamma)[0].nonzero()[:, 0].tolist()
    if not may.any():
        assert chosen == []
        return
    assert all(may[0, i] for i in chosen)
    cost = sum(float(m[0, i, j]) for i, j in itertools.combinations(chosen, 2))
    assert cost <= gamma + 1e-9
    open_ = may[0].nonzero()[:, 0].tolist()
    told = {i: sum(float(m[0, i, j]) for j in open_) for i in open_}
    assert max(told[i] for i in chosen) >= max(told.values()) - 1e-9
    for extra in set(may[0].nonzero()[:, 0].tolist()) - set(chosen):
        assert cost + sum(float(m[0, i, extra]) for i in chosen) > gamma - 1e-9


def test_a_chain_is_halved_and_not_crept_along():
    """Seven links, each tied to its neighbours alone: every other one is taken first."""
    m = torch.diag(torch.ones(6), 1)
    m = (m + m.T)[None]
    h = torch.linspace(0.1, 0.7, 7)[None]  # the surest is at one end
    chosen = pairwise(m, h, torch.ones(1, 7, dtype=torch.bool), 0.5)[0]
    assert chosen.tolist() == [False, True, False, True, False, True, False]
    # Without any coupling there is no order to speak of, and all are taken.
    assert pairwise(0 * m, h, torch.ones(1, 7, dtype=torch.bool), 0.5).all()


def test_equally_telling_positions_come_surest_first():
    m = torch.ones(1, 4, 4) - torch.eye(4)
    h = torch.tensor([[0.9, 0.2, 0.4, 0.2]])
    chosen = pairwise(m, h, torch.ones(1, 4, dtype=torch.bool), 0.5)[0]
    assert chosen.tolist() == [False, True, False, False]


def test_costs_that_differ_by_little_are_decided_by_what_is_told():
    """Once 0 is taken, 1 costs a hair less than 2, and 2 tells far more of what is left."""
    gamma = 0.2
    m = torch.zeros(1, 5, 5)
    m[0, 0, 1], m[0, 0, 2], m[0, 2, 4] = 0.01, 0.01 + 0.9 * SLACK * gamma, 0.3
    m[0, 0, 3], m[0, 0, 4], m[0, 1, 2] = 0.9, 0.5, 0.25
    m = m + m.mT
    h = torch.ones(1, 5)
    assert pairwise(m, h, torch.ones(1, 5, dtype=torch.bool), gamma)[0].tolist() == [
        True, False, True, False, False,
    ]  # fmt: skip
    m[0, 0, 2] = m[0, 2, 0] = 0.01 + 1.1 * SLACK * gamma
    assert bool(pairwise(m, h, torch.ones(1, 5, dtype=torch.bool), gamma)[0, 1])


def test_a_visible_token_takes_over_the_ties_that_go_through_it():
    """A chain whose tie falls with distance: what lies on either side of k is told apart by k."""
    profile = (0.5, 0.3, 0.15, 0.1)
    m = profile_coupling(torch.ones(1, 6), profile)
    seen = torch.tensor([[False, False, True, False, False, False]])
    found = unmediated(m, profile, seen)[0]
    for i, j in itertools.combinations(range(6), 2):
        through = i < 2 < j
        assert float(found[i, j]) == (0.0 if through else float(m[0, i, j]))
        assert float(found[i, j]) == float(found[j, i])
    assert unmediated(m, profile, torch.zeros_like(seen)).equal(m)


def test_a_token_that_has_no_tie_takes_nothing_over():
    """Two chains in turn: a visible item of one says nothing about the other."""
    profile = (0.0, 0.5, 0.0, 0.3)
    m = profile_coupling(torch.ones(1, 7), profile)
    seen = torch.zeros(1, 7, dtype=torch.bool)
    seen[0, 3] = True
    found = unmediated(m, profile, seen)[0]
    assert float(found[2, 4]) == float(m[0, 2, 4]) == 0.5
    assert float(found[1, 5]) == 0.0  # through 3
    assert float(found[0, 4]) == pytest.approx(0.3)


def test_a_long_canvas_costs_what_its_profile_reaches():
    """Beyond the profile nothing is tied, and nothing of the width's cube is ever built."""
    profile = (0.5, 0.3)
    m = profile_coupling(torch.ones(1, 700), profile)
    seen = torch.arange(700)[None] % 2 == 0
    found = unmediated(m, profile, seen)[0]
    assert float(found[1, 3]) == 0.0  # through 2
    assert float(found[1, 2]) == 0.5
    assert float(found[0, 2]) == pytest.approx(0.3)
    assert float(found[697, 699]) == 0.0


def test_the_inequality_holds_on_an_exact_chain():
    """I(X_i; X_j | X_k) of a Markov chain is 0 for k between, as `unmediated` has it."""
    generator = torch.Generator().manual_seed(0)
    step = torch.rand(3, 3, generator=generator, dtype=torch.float64) + 0.1
    step = step / step.sum(1, keepdim=True)
    joint = torch.einsum("a,ab,bc->abc", torch.ones(3, dtype=torch.float64) / 3, step, step)

    def information(p):
        split = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
        return float((p * (p / split).log()).sum())

    given_k = sum(
        float(joint[:, b].sum()) * information(joint[:, b] / joint[:, b].sum()) for b in range(3)
    )
    assert given_k == pytest.approx(0.0, abs=1e-12)
    near, far = information(joint.sum(2)), information(joint.sum(1))
    assert 0 < far <= min(near, information(joint.sum(0)))
    profile = (near, far)
    seen = torch.tensor([[False, True, False]])
    assert (
        float(unmediated(profile_coupling(torch.ones(1, 3), profile), profile, seen)[0, 0, 2]) == 0
    )


def test_end_coupling_is_the_information_of_nested_events():
    p = torch.tensor([0.2, 0.3, 0.1, 0.4], dtype=torch.float64)  # end at 1, 2, 3, beyond
    e = p.cumsum(0)[None, :3]
    found = end_coupling(e)[0]
    for i, j in itertools.combinations(range(3), 2):
        joint = torch.zeros(2, 2, dtype=torch.float64)
        for end, chance in enumerate(p):
            joint[int(end <= i), int(end <= j)] += chance
        split = joint.sum(1)[:, None] * joint.sum(0)
        on = joint > 0
        want = (joint[on] * (joint[on] / split[on]).log()).sum()
        assert float(found[i, j]) == pytest.approx(float(want), abs=1e-12)
