import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.decoding import revoke
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.repair import border


def test_odds_spare_the_argmax_and_the_often_revoked():
    own = torch.tensor([[0.3, 0.05, 0.1, 0.1]])
    best = torch.tensor([[0.3, 0.9, 0.9, 0.9]])
    taken = torch.tensor([[0, 0, 2, 0]])
    candidates = torch.tensor([[True, True, True, False]])
    found = revoke.by_odds(own, best, candidates, taken, margin=0.15, most=2)
    assert found.tolist() == [[False, True, False, False]]


def test_smoothing_is_the_beta_mean():
    found = revoke.smooth(torch.tensor([1.6]), torch.tensor([2]), 1.0, 3.0)
    torch.testing.assert_close(found, torch.tensor([2.6 / 6.0]))


@given(st.integers(0, 30), st.integers(0, 30))
def test_wino_revokes_fewer_than_it_accepted(accepted, previous):
    shadow = torch.linspace(0.0, 1.0, 21)[None]
    visible = torch.ones(1, 21, dtype=torch.bool)
    found = revoke.wino(shadow, visible, 0.9, torch.tensor([accepted]), torch.tensor([previous]))
    most = max(previous - 1, 0) if accepted > 1 else 0
    below = int((shadow < 0.9).sum())
    assert int(found.sum()) == min(most, below)
    assert found[0, : int(found.sum())].all()  # the least confident go first


def test_ledger_caps_a_step_and_the_whole():
    rows = torch.arange(2)
    ledger = Ledger.open(2, total=1.0, step=0.3)
    expected = torch.tensor([10, 10])
    assert ledger.allowance(rows, torch.tensor([10, 2]), expected).tolist() == [0.3, 0.2]
    error = torch.tensor([[0.5, 0.4], [0.1, 0.1]])
    ledger = ledger.spend(rows, error, torch.tensor([[True, True], [True, False]]))
    torch.testing.assert_close(ledger.spent, torch.tensor([0.9, 0.1]).double())
    allowance = ledger.allowance(rows, torch.tensor([10, 10]), expected)
    torch.testing.assert_close(allowance, torch.tensor([0.1, 0.3]).double())


def test_border_waits_until_both_sides_are_complete():
    masked = torch.zeros(3, 8, dtype=torch.bool)
    masked[1, 5] = True
    found = border(torch.tensor([4, 4, 1]), 2, masked, torch.tensor([8, 8, 8]))
    assert found.tolist() == [[2, 3, 4, 5], [-1] * 4, [-1, 0, 1, 2]]
