"""Edits of a canvas keep every other quantity of a position with its token."""

import torch

from probcomp.decoding.ledger import Ledger
from probcomp.decoding.rows import Rows

MASK = 9


def rows():
    ids = torch.tensor([[1, MASK, 3, MASK], [MASK] * 4])
    return Rows(ids, torch.tensor([4, 3]), torch.ones(2).bool(), MASK,
                ledger=Ledger.open(2, 1.0, 1.0), sizing=False)  # fmt: skip


def test_growing_adds_masks_and_shrinking_drops_them():
    state = rows()
    state.ids[1, 3] = 7  # stale, past the canvas
    state.resize(torch.tensor([0, 1]), torch.tensor([-1, 3]))
    assert state.length.tolist() == [3, 6]
    assert state.ids[1, :6].tolist() == [MASK] * 6
    assert state.extensions.tolist() == [0, 1]
    assert state.contractions.tolist() == [1, 0]


def test_inserting_moves_what_follows():
    state = rows()
    state.insert(torch.tensor([0]), torch.tensor([1]), 3)
    assert state.ids[0, :6].tolist() == [1, MASK, MASK, MASK, 3, MASK]
    assert state.age[0, :6].tolist() == [0, -1, -1, -1, 0, -1]
    assert state.length.tolist() == [6, 3]
    assert state.insertions.tolist() == [1, 0]


def test_appending_commits_and_revoking_masks_again():
    state = rows()
    state.append(torch.tensor([1]), 5, 2)
    assert state.ids[1, :5].tolist() == [MASK, MASK, MASK, 5, 5]
    where = torch.zeros(1, 4, dtype=torch.bool)
    where[0, 0] = True
    state.revoke(torch.tensor([0]), where)
    assert state.ids[0, :4].tolist() == [MASK, MASK, 3, MASK]
    assert int(state.taken[0, 0]) == 1
    assert state.revocations.tolist() == [1, 0]
