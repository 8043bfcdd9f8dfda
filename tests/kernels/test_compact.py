"""Compact weights: what is sliced, and what is refused."""

import dataclasses

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels.compact import pack_compact
from tests.kernels.supports import folded, generator


def test_dead_rows_and_columns_are_sliced_away() -> None:
    weight = torch.randn(6, 5, generator=generator(0))
    support = torch.ones(6, 5, dtype=torch.bool)
    support[[1, 4]] = False
    support[:, 2] = False
    support[0, 0] = False
    packed = pack_compact(weight, support, None)
    assert packed.weight.shape == (4, 4)
    assert torch.equal(packed.dense().double(), folded(weight, support))
    assert packed.fill == 15 / 16


def test_a_weight_without_dead_rows_or_columns_keeps_no_index() -> None:
    packed = pack_compact(torch.ones(3, 3), torch.eye(3, dtype=torch.bool), None)
    assert packed.in_index is None
    assert packed.out_index is None


def test_an_empty_support_stores_nothing() -> None:
    packed = pack_compact(torch.ones(3, 4), torch.zeros(3, 4, dtype=torch.bool), None)
    assert packed.stored == 0
    assert torch.equal(packed.dense(), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 0, 1]), "rise strictly"),
        (torch.tensor([0, 1, 9]), "must lie in"),
        (torch.tensor([0, 1]), "has shape"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), "must be int64"),
        (None, "is missing"),
    ],
)
def test_a_wrong_index_is_refused(index, message) -> None:
    support = torch.ones(4, 4, dtype=torch.bool)
    support[:, 3] = False
    packed = pack_compact(torch.ones(4, 4), support, None)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(packed, in_index=index)
