"""Block-compressed rows: the index, the round trip, and every way an index can be wrong."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels.blocks import BlockWeight, block_index, pack_blocks
from tests.kernels.supports import block_support, folded, generator


def example() -> BlockWeight:
    weight = torch.randn(48, 64, generator=generator(0))
    return pack_blocks(weight, block_support((48, 64), (16, 16), 0.6, seed=3), None, (16, 16))


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 40),
    bn=st.integers(1, 20),
    bk=st.integers(1, 20),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_pack_then_dense_is_the_masked_weight(n, k, bn, bk, density, seed) -> None:
    weight = torch.randn(n, k, generator=generator(seed))
    support = torch.rand(n, k, generator=generator(seed + 1)) < density
    packed = pack_blocks(weight, support, None, (bn, bk))
    assert torch.equal(packed.dense().double(), folded(weight, support))
    assert packed.live == int(support.sum())
    again = pack_blocks(packed.dense(), support, None, (bn, bk))
    assert torch.equal(again.val, packed.val)


def test_the_index_walks_rows_and_columns_of_the_same_blocks() -> None:
    live = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    index = block_index(live)
    assert index.crow.tolist() == [0, 2, 2, 4]
    assert index.col.tolist() == [0, 2, 1, 2]
    assert index.ccol.tolist() == [0, 1, 2, 4]
    assert index.trow.tolist() == [0, 2, 0, 2]
    assert index.perm.tolist() == [0, 2, 1, 3]
    assert index.row_order.tolist() == [0, 2, 1]


def test_a_bitmap_exists_only_where_a_live_block_has_dead_entries() -> None:
    weight = torch.ones(20, 20)
    whole = torch.ones(20, 20, dtype=torch.bool)
    assert pack_blocks(weight, whole, None, (16, 16)).bitmap is None
    whole[3, 5] = False
    packed = pack_blocks(weight, whole, None, (16, 16))
    assert packed.bitmap is not None
    assert int((packed.bitmap == 0).sum()) == 1
    assert packed.bitmap[0, 3, 5] == 0


def test_nan_in_a_dead_entry_is_not_stored() -> None:
    weight = torch.full((4, 4), float("nan"))
    support = torch.eye(4, dtype=torch.bool)
    weight[support] = 2.0
    assert torch.equal(pack_blocks(weight, support, None, (2, 2)).dense(), 2 * torch.eye(4))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crow", lambda t: t + 1, "crow must rise"),
        ("crow", lambda t: t.long(), "crow must be int32"),
        ("col", lambda t: t.flip(0), "col must rise strictly"),
        ("col", lambda t: t + 100, "col must lie in"),
        ("erow", lambda t: t.flip(0), "erow does not follow crow"),
        ("trow", lambda t: t.flip(0), "trow does not index the same blocks"),
        ("perm", lambda t: t.flip(0), "perm does not index the same blocks"),
        ("ccol", lambda t: t[:-1], "ccol has shape"),
        ("row_order", lambda t: torch.zeros_like(t), "row_order must be a permutation"),
        ("bitmap", lambda t: torch.ones(3, dtype=torch.uint8), "bitmap must be uint8"),
        ("val", lambda t: t[:-1], "crow must rise from 0"),
        ("val", lambda t: t.flatten(1), "val must be"),
    ],
)
def test_a_wrong_tensor_is_refused(name, change, message) -> None:
    packed = example()
    with pytest.raises(InputError, match=message):
        dataclasses.replace(packed, **{name: change(getattr(packed, name))})
