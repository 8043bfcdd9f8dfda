"""N:M weights: round trip, sizes, detection."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels.nm import detect_nm, pack_nm
from tests.kernels.supports import folded, generator


def nm_support(rows: int, columns: int, n: int, m: int, seed: int) -> torch.Tensor:
    score = torch.rand(rows, columns // m, m, generator=generator(seed))
    return (score.argsort(-1).argsort(-1) < n).view(rows, columns)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 7),
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (4, 8), (3, 5), (8, 16)]),
    drop=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_pack_then_dense_is_the_masked_weight(rows, groups, pattern, drop, seed) -> None:
    n, m = pattern
    support = nm_support(rows, groups * m, n, m, seed)
    support &= torch.rand(support.shape, generator=generator(seed + 1)) >= drop
    weight = torch.randn(support.shape, generator=generator(seed + 2))
    packed = pack_nm(weight, support, None, pattern)
    assert torch.equal(packed.dense().double(), folded(weight, support))


def test_two_of_four_in_16_bits_is_nine_sixteenths_of_the_dense_bytes() -> None:
    support = nm_support(16, 64, 2, 4, 0)
    packed = pack_nm(torch.randn(16, 64).bfloat16(), support, None, (2, 4))
    assert packed.nbytes == 0.5625 * 16 * 64 * 2


def test_detection_finds_the_tightest_pattern() -> None:
    assert detect_nm(nm_support(8, 32, 1, 4, 0)) == (1, 4)
    assert detect_nm(nm_support(8, 32, 2, 4, 0)) == (2, 4)
    assert detect_nm(nm_support(64, 64, 4, 8, 0)) == (4, 8)
    assert detect_nm(torch.ones(4, 8, dtype=torch.bool)) is None


def test_a_support_that_breaks_the_pattern_is_refused() -> None:
    with pytest.raises(InputError, match="a group has 4 live"):
        pack_nm(torch.ones(2, 8), torch.ones(2, 8, dtype=torch.bool), None, (2, 4))
    with pytest.raises(InputError, match="multiple of 4"):
        pack_nm(torch.ones(2, 7), torch.zeros(2, 7, dtype=torch.bool), None, (2, 4))


def test_a_wrong_code_is_refused() -> None:
    packed = pack_nm(torch.ones(2, 16), nm_support(2, 16, 2, 4, 0), None, (2, 4))
    with pytest.raises(InputError, match="rise strictly"):
        dataclasses.replace(packed, code=torch.zeros_like(packed.code))
    with pytest.raises(InputError, match="code must be uint8"):
        dataclasses.replace(packed, code=packed.code[:, :1])
