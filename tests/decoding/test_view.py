import torch

from probcomp.decoding.features import Features
from probcomp.decoding.view import View, first_of


def view(**changes):
    zero = torch.zeros(1, 5)
    features = Features(zero.long(), zero, zero.long(), zero, zero, zero, zero)
    values = {
        "index": torch.tensor([0]),
        "ids": torch.tensor([[4, 9, 9, 9, 9]]),
        "masked": torch.tensor([[False, True, True, True, False]]),
        "valid": torch.tensor([[True, True, True, True, False]]),
        "length": torch.tensor([4]),
        "features": features,
        "eos_committed": torch.zeros(1, 5, dtype=torch.bool),
        "tail": torch.tensor([3]),
    }
    return View(**(values | changes))


def test_what_is_pending_lies_before_the_tail():
    assert view().pending.tolist() == [[False, True, True, False, False]]
    assert view().first_pending().tolist() == [1]
    assert view(tail=torch.tensor([1])).first_pending().tolist() == [5]
    inside = view().inside(torch.tensor([1]), torch.tensor([3]))
    assert inside.tolist() == [[False, True, True, False, False]]


def test_content_is_expected_by_the_chance_to_be_before_the_end():
    assert view().expected_content().tolist() == [2.0]
    p = torch.tensor([[0.0, 0.25, 0.25, 0.5, 0.0, 0.0]])
    # P(E > i) at the two pending positions: 0.75 and 0.5.
    assert view(p_end=p).expected_content().tolist() == [1.25]
    sure = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    assert view(p_end=sure).expected_content().tolist() == [1.0]  # never below one token


def test_first_of():
    where = torch.tensor([[False, True, True], [False, False, False]])
    assert first_of(where, torch.tensor([3, 2])).tolist() == [1, 2]
    assert first_of(where, torch.tensor([0, 9])).tolist() == [0, 3]
