import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.durations import Fixed, Geometric, NegativeBinomial, log_duration
from probcomp.decoding.partition import map_partition

WIDTH = 6


def stories(weights, r, log_d, log_longer):
    """(log weight, block ends) of every end k and every set of cuts before it."""
    for end in range(WIDTH + 1):  # content 1..end
        for n in range(end + 1):
            for cuts in itertools.combinations(range(1, end + 1), n):
                value, at, fits = float(weights[end]), 0, True
                for cut in cuts:
                    fits = fits and cut - at <= len(log_d)
                    if fits:
                        value += float(log_d[cut - at - 1]) + float(r[cut - 1])
                    at = cut
                if at < end:
                    fits = fits and end - at <= len(log_d)
                    if fits:
                        value += float(log_longer[end - at - 1])
                if fits and (cuts == () or end > 0):
                    yield value, [*cuts, *([end] if at < end else [])]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([Geometric(2.5, 4), NegativeBinomial(3.0, 2.0, 5)]))
def test_it_is_the_best_of_all_stories(seed, family):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(WIDTH + 1, generator=generator, dtype=torch.float64)
    r = 2 * torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    durations = log_duration(family)
    log_d, log_longer = (x.double() for x in durations)
    best, ends = max(stories(weights, r, log_d, log_longer), key=lambda story: story[0])
    found = map_partition(weights[None], r[None], (log_d, log_longer), WIDTH)[0].tolist()
    want = (ends + [ends[-1] if ends else 0] * WIDTH)[:WIDTH]
    scores = {tuple(e): v for v, e in stories(weights, r, log_d, log_longer)}
    mine = tuple(dict.fromkeys(x for x in found if x))
    assert found == want or scores[mine] == pytest.approx(best, abs=1e-9)


def test_fixed_blocks_are_fixed():
    weights = torch.full((1, 13), -50.0)
    weights[0, 12] = 0.0
    found = map_partition(weights, torch.zeros(1, 12), log_duration(Fixed(4)), 3)
    assert found.tolist() == [[4, 8, 12]]
