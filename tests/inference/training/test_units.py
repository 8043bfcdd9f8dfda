import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.training.units import Slice, Slot, Units, slots

SHAPES = {"a": (4, 3), "b": (6, 8)}


def test_positions_of_units_with_several_positions_each() -> None:
    group = Units(
        "g", 4, (Slice("a", 0, torch.arange(4)), Slice("b", -1, torch.arange(8).view(4, 2)))
    )
    found = slots([group], SHAPES)
    assert found["a"][0].index.tolist() == [0, 1, 2, 3]
    assert found["b"][0].dim == 1
    assert found["b"][0].index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_gather_sums_and_spread_fills() -> None:
    slot = Slot("g", 1, torch.tensor([0, -1, 1, 0]))
    values = torch.arange(8.0).view(2, 4)
    assert slot.gather(values, 3).tolist() == [4 + 10, 8, 0]
    spread = slot.spread(torch.tensor([5.0, 6.0, 7.0]), 2, fill=-1.0)
    assert spread.tolist() == [[5.0, -1.0, 6.0, 5.0]]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (Slice("c", 0, torch.arange(4)), "which the model does not have"),
        (Slice("a", 0, torch.arange(3)), "for 4 units"),
        (Slice("a", 0, torch.arange(4) + 1), "dimension 0"),
        (Slice("a", 2, torch.arange(4)), "dimension 2"),
        (Slice("a", 0, torch.arange(4.0)), "the index of 'a'"),
    ],
)
def test_members_that_do_not_fit(member, message) -> None:
    with pytest.raises(InputError, match=message):
        slots([Units("g", 4, (member,))], SHAPES)
