"""Clustered runs: round trip, and that reordering finds rows that share their bursts."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels.runs import cluster_rows, pack_runs, segment_mask
from tests.kernels.supports import bursts, folded, generator


@settings(max_examples=25)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 50),
    panel=st.sampled_from([1, 4, 16]),
    density=st.sampled_from([0.0, 0.05, 0.5]),
    reorder=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_pack_then_dense_is_the_masked_weight(n, k, panel, density, reorder, seed) -> None:
    weight = torch.randn(n, k, generator=generator(seed))
    support = torch.rand(n, k, generator=generator(seed + 1)) < density
    packed = pack_runs(weight, support, None, panel, reorder)
    assert torch.equal(packed.dense().double(), folded(weight, support))
    assert packed.live == int(support.sum())


def test_reordering_brings_rows_with_the_same_burst_together() -> None:
    support = bursts(128, 512, patterns=8)
    weight = torch.randn(128, 512, generator=generator(1))
    shuffled = pack_runs(weight, support, None, 16, reorder=False)
    ordered = pack_runs(weight, support, None, 16, reorder=True)
    assert shuffled.density > 0.25  # most segments are live in some row of a mixed panel
    assert ordered.density < 0.4 * shuffled.density
    assert ordered.fill > 2.5 * shuffled.fill
    assert torch.equal(ordered.dense(), shuffled.dense())


def test_rows_of_two_patterns_are_split_exactly() -> None:
    live = torch.zeros(8, 4, dtype=torch.bool)
    live[0::2, :2] = True
    live[1::2, 2:] = True
    order = cluster_rows(live, 4).tolist()
    assert sorted(order) == list(range(8))
    assert {row % 2 for row in order[:4]} == {0}
    assert {row % 2 for row in order[4:]} == {1}


def test_segments_are_sixteen_columns_wide() -> None:
    support = torch.zeros(1, 33, dtype=torch.bool)
    support[0, [16, 32]] = True
    assert segment_mask(support).tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("seg", lambda t: t + 1, "multiples of 16"),
        ("seg", lambda t: t.flip(0), "rise strictly"),
        ("ptr", lambda t: t.flip(0), "ptr must rise"),
        ("order", lambda t: t.roll(1), "invert order"),
        ("val", lambda t: t[:, :8], "val must be"),
    ],
)
def test_a_wrong_tensor_is_refused(name, change, message) -> None:
    packed = pack_runs(torch.ones(32, 64), torch.ones(32, 64, dtype=torch.bool), None)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(packed, **{name: change(getattr(packed, name))})
