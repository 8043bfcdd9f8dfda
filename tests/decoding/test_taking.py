"""Taking back and putting in, as the loop uses them."""

import torch

from probcomp.decoding.bound import Bound
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.features import Features
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.rows import Rows
from probcomp.decoding.taking import insert_masks, repair_border, shadow_positions, verify
from probcomp.decoding.view import View
from tests.decoding.worlds import MASK, random_world, run_rows

ADAPTER = random_world(0)


def rows_of(ids, begin, end):
    canvas = torch.tensor([ids])
    rows = Rows(
        canvas,
        torch.tensor([len(ids)]),
        torch.ones(1, dtype=torch.bool),
        MASK,
        ledger=Ledger.open(1, 1.0, 1.0),
        sizing=False,
    )
    rows.age[0] = torch.where(canvas[0] == MASK, -1, 1)
    rows.begin[0], rows.end[0] = begin, end
    return rows


def view_of(rows, top_prob=0.5, eos=0.0):
    n = rows.ids.shape[1]
    p = torch.full((1, n), top_prob)
    zero = torch.zeros(1, n)
    features = Features(zero.long(), p, zero.long(), p, zero, zero + eos, zero)
    masked = rows.ids == MASK
    valid = torch.ones_like(masked)
    return View(
        torch.tensor([0]), rows.ids, masked, valid, rows.length, features, ~valid, rows.length
    )


def ask(config, rows):
    return shadow_positions(
        Bound(ADAPTER, config), rows, torch.tensor([0]), rows.ids, torch.ones_like(rows.ids).bool()
    )


def test_verification_asks_for_what_is_committed_in_an_unfinished_block():
    config = DecodingConfig(verify="odds")
    rows = rows_of([1, 2, MASK, 3, 4], 1, 4)
    assert ask(config, rows).tolist() == [[1, -1, 3]]
    rows.age[0, 1] = 0  # given, not ours
    assert ask(config, rows).tolist() == [[-1, -1, 3]]
    assert (ask(config, rows_of([1, 2, 5, 3, 4], 1, 4)) == -1).all()  # nothing is left to decide
    assert ask(DecodingConfig(), rows) is None


def shadow_logits(p):
    """Shadow logits [1, positions, vocabulary] that give token 3 the chance p, token 4 the rest."""
    logits = torch.full((1, len(p), ADAPTER.vocab_size), -60.0)
    logits[0, :, 3], logits[0, :, 4] = torch.tensor(p).log(), torch.log1p(-torch.tensor(p))
    return logits


def test_the_odds_take_back_a_token_that_another_beats_and_never_the_best():
    config = DecodingConfig(verify="odds", margin=0.15)
    rows = rows_of([3, 3, 3, MASK, MASK], 0, 5)
    rows.accepted[0] = 3
    bound, view = Bound(ADAPTER, config), view_of(rows)
    shadow = ask(config, rows)
    commit = torch.tensor([[False, False, False, True, True]])
    seen = shadow_logits([0.05, 0.45, 0.9, 0.5, 0.5])
    assert verify(bound, rows, view, shadow, seen, commit).nonzero().tolist() == [[0, 0]]
    rows.taken[0, 0] = config.revoke_most  # taken back often enough
    assert not verify(bound, rows, view, shadow, seen, commit).any()


def test_one_committed_token_takes_nothing_back():
    config = DecodingConfig(verify="odds")
    rows = rows_of([3, 3, MASK], 0, 3)
    rows.accepted[0] = 3
    seen = shadow_logits([0.01, 0.01, 0.5])
    commit = torch.tensor([[False, False, True]])
    args = (Bound(ADAPTER, config), rows, view_of(rows), ask(config, rows), seen, commit)
    assert not verify(*args).any()


def test_a_border_is_checked_once_and_refined():
    config = DecodingConfig(border=1)
    rows = rows_of([3, 3, 3, 3], 2, 4)
    rows.border[0] = 2
    bound, shadow = Bound(ADAPTER, config), ask(config, rows)
    assert shadow.tolist() == [[1, 2]]
    found = repair_border(bound, rows, view_of(rows), shadow, shadow_logits([0.05, 0.9]))
    assert found.nonzero().tolist() == [[0, 1]]
    assert (int(rows.begin), int(rows.end)) == (1, 3)
    assert int(rows.repair) < 0
    assert bool(rows.checked)
    assert int(rows.border) == 0
    assert ask(config, rows) is None


def test_daedal_puts_eight_masks_where_it_is_least_sure():
    config = DecodingConfig(insert=True, max_new_tokens=20)
    rows = rows_of([1, MASK, MASK, 2], 0, 4)
    view = view_of(rows, top_prob=0.05)
    view.features.top_prob[0, 1] = 0.08
    go, no_end = torch.tensor([True]), torch.zeros(1, 4, dtype=torch.bool)
    edges = torch.tensor([0]), torch.tensor([4])
    insert_masks(Bound(ADAPTER, config), rows, view, no_end, go, *edges)
    assert rows.ids[0].tolist()[:11] == [1, MASK, *[MASK] * 8, 2]
    assert rows.length.tolist() == [11]
    # Not where the room is too small, or where every mask is sure enough.
    small = rows_of([1, MASK, 2], 0, 3)
    edges = torch.tensor([0]), torch.tensor([3])
    tight = Bound(ADAPTER, config.replace(max_new_tokens=9))
    insert_masks(tight, small, view_of(small, 0.05), no_end[:, :3], go, *edges)
    insert_masks(Bound(ADAPTER, config), small, view_of(small, 0.5), no_end[:, :3], go, *edges)
    assert small.length.tolist() == [3]


def test_whole_runs_revoke_and_still_end():
    config = DecodingConfig(
        max_new_tokens=12, sizing="none", rule="threshold", threshold=0.3, verify="odds",
        stop="none", blocks="none",
    )  # fmt: skip
    rows, steps = run_rows(random_world(3, scale=1.5), config, rows=4)
    assert bool(rows.done.all())
    assert sum(int(s.revoked.sum()) for s in steps) == int(rows.revocations.sum())
    assert (rows.taken <= config.revoke_most).all()
    assert not (rows.ids == MASK).any()
