import pytest
import torch

from probcomp.decoding.ledger import Ledger


def test_a_forward_spends_its_share_of_what_is_left():
    ledger = Ledger.open(2, total=2.0, step=0.5)
    rows = torch.tensor([0, 1])
    half = ledger.allowance(rows, torch.tensor([5, 1]), torch.tensor([10.0, 20.0]))
    assert half.tolist() == pytest.approx([0.5, 0.1])  # 1.0 is capped by the step
    error = torch.tensor([[0.3, 0.2], [0.1, 0.9]])
    after = ledger.spend(rows, error, torch.tensor([[True, True], [True, False]]))
    assert after.spent.tolist() == pytest.approx([0.5, 0.1])
    assert ledger.spent.tolist() == [0.0, 0.0]


def test_an_overdrawn_ledger_allows_nothing():
    ledger = Ledger(1.0, 0.5, torch.tensor([3.0], dtype=torch.float64))
    assert ledger.allowance(torch.tensor([0]), torch.tensor([4]), torch.tensor([4.0])).item() == 0.0
