"""Drawing the end first: on an oracle the law of the length is exact."""

import math

import pytest
import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.bound import Bound
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.ending import without_ends
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.oracles import MarkovOracle
from probcomp.decoding.rows import Rows
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


@pytest.mark.parametrize("together", [False, True])
def test_lengths_follow_the_law_past_the_first_window_too(together):
    rows = 600
    state, _ = run(CONFIG.replace(draw_commits=together), rows)
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


def test_it_may_commit_in_that_forward_too():
    """This chain's symbols do not depend on where it ends, so their law stays exact."""
    together = CONFIG.replace(draw_commits=True)
    rows = 1500
    state, steps = run(together, rows, size=30)
    drawn = steps[0].change < 0
    assert (steps[0].commit.any(1) == (state.content > 0))[drawn].all()
    assert (steps[0].length == 30).all()
    alone, _ = run(CONFIG, 40, size=30)
    # One forward less for every text that has content.
    less = alone.nfe - run(together, 40, size=30)[0].nfe
    assert less.tolist() == (alone.content > 0).long().tolist()
    first, second = (state.ids[:, i][state.content > 1] for i in (0, 1))
    seen = torch.zeros(4, 4, dtype=torch.float64).index_put(
        (first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True
    )
    step = ORACLE.step[:4, :4] / (1 - HAZARD)
    want = (ORACLE.begin[:4] / (1 - HAZARD))[:, None] * step * len(first)
    error = (want * (1 - want / len(first))).sqrt().clamp(min=1.0)
    assert float(((seen - want).abs() / error).max()) < 4.0


def test_no_end_token_is_possible_where_the_end_is_decided():
    adapter = CallableAdapter(lambda i, k: i, mask_id=3, eos_ids=(1, 2), vocab_size=4)
    rows = Rows(
        torch.full((2, 3), 3),
        torch.tensor([3, 3]),
        torch.ones(2, dtype=torch.bool),
        3,
        ledger=Ledger.open(2, 1.0, 1.0),
        sizing=True,
    )
    logits = torch.randn(2, 3, 4)
    index = torch.arange(2)
    bound = Bound(adapter, CONFIG)
    assert without_ends(bound, rows, index, logits) is logits
    rows.settled[1] = True
    found = without_ends(bound, rows, index, logits)
    assert found[0].equal(logits[0])
    assert (found[1, :, 1:3] == -torch.inf).all()
    assert found[1, :, [0, 3]].equal(logits[1, :, [0, 3]])


def test_where_nothing_but_an_end_is_possible_the_end_stays():
    """A grammar of the caller allows an end alone: minus infinity everywhere would be no law."""
    adapter = CallableAdapter(lambda i, k: i, mask_id=3, eos_ids=(1, 2), vocab_size=4)
    rows = Rows(
        torch.full((1, 2), 3),
        torch.tensor([2]),
        torch.ones(1, dtype=torch.bool),
        3,
        ledger=Ledger.open(1, 1.0, 1.0),
        sizing=True,
    )
    rows.settled[0] = True
    logits = torch.tensor([[[0.5, 1.0, 2.0, -torch.inf], [-torch.inf, 1.0, 2.0, -torch.inf]]])
    found = without_ends(Bound(adapter, CONFIG), rows, torch.arange(1), logits)
    assert found[0, 0].tolist() == [0.5, -torch.inf, -torch.inf, -torch.inf]
    assert found[0, 1].equal(logits[0, 1])
    assert not found.softmax(-1).isnan().any()


@pytest.mark.parametrize("together", [False, True])
def test_a_processor_that_allows_only_an_end_has_the_last_word(together):
    calls = []

    def three_at_most(ids, logits):
        calls.append(ids.shape[1])
        logits = logits.clone()
        logits[:, 3:, : ORACLE.eos_id] = -torch.inf
        return logits

    state, steps = run(CONFIG.replace(draw_commits=together), 60, processor=three_at_most)
    assert len(calls) == len(steps)  # once a forward
    assert int(state.content.max()) <= 3
    for i in range(60):
        text = state.ids[i, : int(state.content[i])]
        assert not torch.isin(text, torch.tensor([ORACLE.eos_id, ORACLE.mask_id])).any()


def test_a_text_that_may_not_grow_is_cut_without_an_end():
    state, _ = run(CONFIG.replace(max_new_tokens=6), 200)
    cut = state.content == 6
    assert float(cut.double().mean()) == pytest.approx((1 - HAZARD) ** 6, abs=0.14)
    assert not (state.ids[cut][:, :6] == ORACLE.eos_id).any()


def test_greedy_decoding_draws_nothing():
    state, _ = run(CONFIG.replace(temperature=0.0), 2)
    assert not state.settled.any()
