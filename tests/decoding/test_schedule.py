import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding import schedule
from tests.decoding.enumeration import random_rows, subsets

SEEDS = st.integers(0, 10**6)


def row(seed, width=7):
    value = random_rows(seed, 1, width).sigmoid()
    eligible = random_rows(seed + 1, 1, width) > -0.8
    return value, eligible


def chosen(mask):
    return [i for i, on in enumerate(mask[0].tolist()) if on]


def places(eligible):
    return chosen(eligible)


@settings(max_examples=40)
@given(SEEDS, st.floats(0.05, 2.0))
def test_budget_is_the_largest_set_within_it(seed, allowance):
    error, eligible = row(seed)
    found = chosen(schedule.budget(error, eligible, torch.tensor([allowance])))
    fits = [s for s in subsets(places(eligible)) if sum(float(error[0, i]) for i in s) <= allowance]
    if places(eligible):
        assert len(found) == max(1, max(map(len, fits)))
        assert set(found) <= set(places(eligible))
    else:
        assert found == []


@settings(max_examples=40)
@given(SEEDS, st.floats(0.05, 2.0))
def test_entropy_is_the_largest_set_under_the_bound(seed, gamma):
    value, eligible = row(seed)
    found = chosen(schedule.entropy(value, eligible, gamma))
    bound = {
        s: sum(h := [float(value[0, i]) for i in s]) - max(h)
        for s in subsets(places(eligible))
        if s
    }
    if bound:
        assert len(found) == max(len(s) for s, b in bound.items() if b <= gamma or len(s) == 1)


@settings(max_examples=40)
@given(SEEDS, st.floats(0.3, 3.0))
def test_factor_is_the_largest_n(seed, f):
    confidence, eligible = row(seed)
    ranked = sorted((float(confidence[0, i]) for i in places(eligible)), reverse=True)
    good = [n for n, c in enumerate(ranked, 1) if (n + 1) * (1 - c) < f]
    want = max(good, default=1) if ranked else 0
    assert len(chosen(schedule.factor(confidence, eligible, f))) == want


@settings(max_examples=40)
@given(SEEDS, st.floats(0.05, 2.0), st.sampled_from(["budget", "entropy", "factor"]))
def test_what_a_rule_takes_keeps_within_it_and_is_the_cheapest(seed, limit, rule):
    """Not only as many as fit: these ones fit, and none left out is cheaper than one taken."""
    cost, eligible = row(seed)
    if rule == "budget":
        taken = chosen(schedule.budget(cost, eligible, torch.tensor([limit])))
    elif rule == "entropy":
        taken = chosen(schedule.entropy(cost, eligible, limit))
    else:
        taken = chosen(schedule.factor(1 - cost, eligible, limit))
    value = [float(c) for c in cost[0]]
    left = set(places(eligible)) - set(taken)
    assert set(taken) <= set(places(eligible))
    if taken and left:
        assert max(value[i] for i in taken) <= min(value[i] for i in left)
    if len(taken) > 1:
        worst = max(value[i] for i in taken)
        total = sum(value[i] for i in taken)
        spent = {"budget": total, "entropy": total - worst, "factor": (len(taken) + 1) * worst}
        assert spent[rule] <= limit + 1e-12


def test_threshold_and_quota_on_a_known_row():
    confidence = torch.tensor([[0.95, 0.5, 0.91, 0.99], [0.2, 0.4, 0.4, 0.1], [0.9, 0.9, 0.9, 0.9]])
    eligible = torch.tensor([[True, True, True, False], [True] * 4, [False] * 4])
    found = schedule.threshold(confidence, eligible, 0.9)
    assert found.tolist() == [
        [True, False, True, False],
        [False, True, False, False],  # the best, and the lower place of two equals
        [False] * 4,
    ]
    two = schedule.quota(confidence, eligible, torch.tensor([2, 3, 2]))
    assert two.sum(1).tolist() == [2, 3, 0]
    assert two[1].tolist() == [True, True, True, False]


def test_llada_quota_spreads_the_remainder_first():
    assert schedule.llada_quota(torch.tensor([7, 4]), 4).tolist() == [[2, 2, 2, 1], [1, 1, 1, 1]]


def joint(seed, sharpness=1.0):
    p = (sharpness * random_rows(seed, 3, 3, 3)).exp()
    return p / p.sum()


@settings(max_examples=40)
@given(SEEDS, st.floats(0.01, 1.5))
def test_what_the_entropy_rule_commits_shares_no_more_than_gamma(seed, gamma):
    """The total correlation of the very set that is taken, from the joint law."""
    p = joint(seed, sharpness=6.0)  # concentrated enough that the three depend on each other
    marginals = [p.sum([k for k in range(3) if k != i]) for i in range(3)]
    h = torch.stack([torch.special.entr(q).sum() for q in marginals])[None]
    taken = chosen(schedule.entropy(h, torch.ones(1, 3, dtype=torch.bool), gamma))
    together = p.sum([k for k in range(3) if k not in taken]) if len(taken) < 3 else p
    shared = float(h[0, taken].sum() - torch.special.entr(together).sum())
    assert -1e-12 <= shared <= gamma + 1e-12


@settings(max_examples=20)
@given(SEEDS)
def test_total_correlation_is_below_the_entropy_bound(seed):
    p = joint(seed)
    single = [p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))]
    entropies = [float(-(q * q.log()).sum()) for q in single]
    total = float(-(p * p.log()).sum())
    assert sum(entropies) - total <= sum(entropies) - max(entropies) + 1e-12
