"""The decode kernel, interpreted: every split and chunk width gives the naive statistics."""

import pytest
import torch

from probcomp.kernels import decode_stats
from probcomp.kernels.gpu.decode_statistics import merge, parts
from tests.kernels.decode_cases import LOW, naive, rows_of_logits
from tests.kernels.test_statistics import agree


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_hostile_rows(temperature) -> None:
    x = rows_of_logits()[[0, 1, 2, 3, 4, 6, 7, 8]]
    got = decode_stats(x, eos_ids=[2, 5, 700], temperature=temperature, backend="triton")
    agree(got, naive(x, [2, 5, 700], temperature), far=1e-4)


@pytest.mark.parametrize(("width", "split"), [(512, 1), (512, 3), (1024, 2), (4096, 1), (256, 8)])
def test_parts_merge_to_the_whole(width, split) -> None:
    x = rows_of_logits()[[0, 1, 2, 4, 7]]
    best, second, index, z, u = merge(*parts(x, 1.0, width, split))
    want = naive(x, [], 1.0)
    assert torch.equal(index, want["argmax"])
    assert (1 / z - want["top1"]).abs().max() < 1e-5
    assert (z.log() - u / z - want["entropy"]).abs().max() < 1e-5
    assert ((1 - (second - best).exp()) / z - want["margin"]).abs().max() < 1e-5


def test_dtypes() -> None:
    x = rows_of_logits()[[0, 2, 4]]
    agree(decode_stats(x.double(), backend="triton"), naive(x, [], 1.0), 1e-11, 1e-10)
    for dtype in (torch.float16, torch.bfloat16):
        low = x.to(dtype)
        want = naive(low.float(), [], 1.0)
        want["argmax"] = decode_stats(low.float()).argmax
        agree(decode_stats(low, backend="triton"), want, far=1e-4)


def test_rows_that_cannot_be_normalised_are_flagged() -> None:
    x = torch.zeros(4, 900)
    x[0, 800] = float("nan")
    x[1] = LOW
    x[2, 3] = float("inf")
    got = decode_stats(x, eos_ids=[3], backend="triton")
    assert got.argmax.tolist() == [-1, -1, -1, 0]
    for column in got[1:]:
        assert column.isnan().tolist() == [True, True, True, False]


def test_a_strided_slice_of_logits() -> None:
    x = rows_of_logits()[:, ::2]
    got = decode_stats(x[:3], backend="triton")
    assert torch.equal(got.argmax, decode_stats(x[:3].contiguous()).argmax)
