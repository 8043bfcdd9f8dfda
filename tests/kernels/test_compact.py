"""Compact weights: what is sliced, and what is refused."""

import dataclasses

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import compact, masked_linear, ready
from probcomp.kernels.compact import pack_compact, pays_its_moves
from tests.kernels.supports import folded, generator, relative_error


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


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_sliced_or_whole_it_is_the_same_product(rows: int, monkeypatch) -> None:
    """One after the other on one weight, whose copies of both kinds are kept side by side."""
    weight, bias = torch.randn(600, 520, generator=generator(0)), torch.randn(600)
    support = torch.ones(600, 520, dtype=torch.bool)
    support[::3], support[:, :100] = False, False
    packed = pack_compact(weight, support, bias)
    x = torch.randn(rows, 520, generator=generator(1))
    want = torch.relu(x.double() @ folded(weight, support).T + bias.double())
    for move in (0, 10**9, 0):
        monkeypatch.setattr(compact, "MOVE", move)
        ready.forget_calls()
        for _ in range(2):
            y = masked_linear(x, packed, activation="relu")
            assert relative_error(y, want) < 2e-6
            assert torch.equal(y[:, 0], torch.relu(bias[0]).expand(rows))


def test_a_slice_must_save_more_than_it_moves() -> None:
    def pays(n, k, of, rows, inputs=True, outputs=True):
        at = torch.zeros(1, dtype=torch.int64)
        places = (at if inputs else None, at if outputs else None)
        return pays_its_moves(torch.empty(n, k, device="meta"), *places, of, rows)

    assert pays(100, 100, (1000, 1000), 16)
    assert not pays(2800, 50, (2865, 60), 1024)  # a scatter of all outputs, for few inputs
    assert not pays(990, 990, (1000, 1000), 1024)  # hardly anything is dead
    assert pays(500, 1000, (1000, 1000), 16, inputs=False)
    assert not pays(50, 100, (100, 100), 1)  # less work than the calls
    assert pays(60, 60, (60, 60), 1, inputs=False, outputs=False)
