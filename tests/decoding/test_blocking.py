"""Going on into the next block within a forward, against the rule written out by hand."""

import itertools

import pytest
import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.presets import presets
from tests.decoding import published
from tests.decoding.worlds import EOS, MASK, random_world, run_rows

SIZE, BLOCK = 24, 4
CONFIG = DecodingConfig(
    max_new_tokens=SIZE,
    sizing="none",
    blocks="fixed",
    block_length=BLOCK,
    stop="none",
    beyond=False,
    rule="budget",
    error_step=0.4,
    error_total=1e9,
)


def prefix(errors, places, budget):
    """The longest prefix in error within the budget, and at least its first position."""
    order = sorted(places, key=lambda i: (errors[i], i))
    sums = list(itertools.accumulate(errors[i] for i in order))
    return set(order[: max(1, sum(s <= budget for s in sums))])


def by_hand(p_of, carry):
    """The sets committed in each forward: blocks in order, a whole one takes in the next."""
    x, trace = [MASK] * SIZE, []
    while MASK in x:
        p = p_of(x)
        errors = (1 - p.max(-1).values).tolist()
        left = [i for i in range(SIZE) if x[i] == MASK]

        def block(k, left=left):
            return {i for i in left if i // BLOCK == k}

        k = left[0] // BLOCK
        places = block(k)
        chosen = prefix(errors, places, CONFIG.error_step)
        while carry and chosen == places and any(i // BLOCK > k for i in left):
            k = min(i // BLOCK for i in left if i // BLOCK > k)
            wider = places | block(k)
            more = prefix(errors, wider, CONFIG.error_step)
            if not chosen < more:
                break
            places, chosen = wider, more
        for i in chosen:
            x[i] = int(p[i].argmax())
        trace.append(sorted(chosen))
    return trace, x


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_sets_committed_are_those_of_the_rule(seed, carry):
    adapter = random_world(seed, scale=9.0)
    state, steps = run_rows(
        adapter, CONFIG.replace(carry=carry), context=torch.tensor([[seed % 5]])
    )
    want, x = by_hand(published.probabilities(adapter, seed % 5), carry)
    assert [step.commit[0].nonzero()[:, 0].tolist() for step in steps] == want
    assert state.ids[0, :SIZE].tolist() == x


def test_some_forwards_go_past_a_block_and_fewer_are_needed():
    forwards = {True: 0, False: 0}
    crossed = 0
    for carry in forwards:
        for seed in range(8):
            state, steps = run_rows(random_world(seed, scale=9.0), CONFIG.replace(carry=carry))
            forwards[carry] += int(state.forwards[0])
            for step in steps:
                blocks = {i // BLOCK for i in step.commit[0].nonzero()[:, 0].tolist()}
                crossed += len(blocks) > 1
                assert carry or len(blocks) == 1
    assert crossed
    assert forwards[True] < forwards[False]


@pytest.mark.parametrize("blocks", ["fixed", "posterior", "delimiter"])
@pytest.mark.parametrize("rule", ["budget", "threshold", "entropy", "pairwise"])
def test_a_block_is_whole_before_the_next_is_begun(blocks, rule):
    """At each forward, in order, at most the last block that was touched is left unfinished."""
    config = CONFIG.replace(
        blocks=blocks, rule=rule, threshold=0.7, block_mean=4.0, block_max=8, block_min=2,
        delimiters=((3, 1.0),), coupling_profile=(0.4, 0.1), length_mean=20.0,
    )  # fmt: skip
    for seed in range(4):
        state, steps = run_rows(random_world(seed, scale=9.0), config)
        done = torch.zeros(SIZE, dtype=torch.bool)
        for step in steps:
            done |= step.commit[0]
            end = int(step.end[0])
            assert not done[end:].any()
            open_ = (~done[:end]).nonzero()[:, 0]
            last = state.cuts[0, : end - 1].nonzero()[:, 0]
            begun = int(last.max()) + 1 if len(last) else 0
            assert all(int(i) >= begun for i in open_)


def test_only_ours_carries_and_not_where_finished_blocks_are_looked_at_again():
    assert [name for name in presets if presets[name].carry] == ["bayes"]
    assert DecodingConfig().carries
    for other in (
        {"carry": False},
        {"border": 2},
        {"verify": "odds"},
        {"insert": True},
        {"block_multiple": 4},
        {"blocks": "none"},
    ):
        assert not DecodingConfig(**other).carries


def test_a_drawn_row_carries_within_its_budget_alone_and_in_a_batch():
    config = CONFIG.replace(rule="auto", temperature=1.0, coupling_profile=(0.3, 0.1), gamma=0.5)
    adapter = random_world(1, scale=7.0)
    context, seeds = torch.arange(4)[:, None], torch.arange(4)
    together, steps = run_rows(adapter, config, context=context, seeds=seeds)
    assert any(int(step.commit.sum(1).max()) > BLOCK for step in steps)
    for row in range(4):
        alone, _ = run_rows(
            adapter, config, context=context[row : row + 1], seeds=seeds[row : row + 1]
        )
        assert alone.ids[0].tolist() == together.ids[row].tolist()
    assert EOS != MASK
