"""Drawing the end first: on an oracle the law of the length is exact."""

import math

import pytest
import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.oracles import MarkovOracle
from tests.decoding.worlds import run_rows

HAZARD = 0.15
ORACLE = MarkovOracle.random(4, HAZARD, 2)
CONFIG = DecodingConfig(
    temperature=1.0,
    draw_end=True,
    initial_length=6,
    max_new_tokens=40,
    extend_actions=(4, 8),
    length_mean=6.0,
    length_shape=1.0,
    end_model="cdf",
    beyond=False,
    blocks="none",
    rule="budget",
    error_step=1e-9,
)


def run(config, rows, **extra):
    adapter = ORACLE.adapter()
    inner = adapter.function
    # The oracle has no prompt: the one token before the canvas says nothing.
    adapter.function = lambda ids, keys: torch.nn.functional.pad(
        inner(ids[:, 1:], keys[:, 1:]), (0, 0, 1, 0)
    )
    return run_rows(adapter, config, context=torch.zeros(rows, 1, dtype=torch.long), **extra)


def test_lengths_follow_the_law_past_the_first_window_too():
    rows = 600
    state, _ = run(CONFIG, rows)
    assert bool(state.settled.all())
    length = state.content.double()
    # P(content >= n) = (1 - h)^n; 4 standard errors at each n.
    for n in (1, 3, 6, 10, 16):
        want = (1 - HAZARD) ** n
        error = math.sqrt(want * (1 - want) / rows)
        assert float((length >= n).double().mean()) == pytest.approx(want, abs=4 * error)
    for i in range(rows):
        n = int(state.content[i])
        assert int(state.length[i]) in (n + 1, 40)
        assert not (state.ids[i, :n] == ORACLE.eos_id).any()


def test_the_forward_that_draws_commits_nothing_else():
    _, steps = run(CONFIG, 3)
    assert not steps[0].commit.any()
    assert (steps[0].change != 0).any()


def test_a_text_that_may_not_grow_is_cut_without_an_end():
    state, _ = run(CONFIG.replace(max_new_tokens=6), 200)
    cut = state.content == 6
    assert float(cut.double().mean()) == pytest.approx((1 - HAZARD) ** 6, abs=0.14)
    assert not (state.ids[cut][:, :6] == ORACLE.eos_id).any()


def test_greedy_decoding_draws_nothing():
    state, _ = run(CONFIG.replace(temperature=0.0), 2)
    assert not state.settled.any()
