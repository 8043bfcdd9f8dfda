"""The code of one tensor: any shape and type, bit for bit, and what is wrong is refused."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.coding.masks import put_mask
from probcomp.coding.range_coder import RangeDecoder, RangeEncoder, SymbolModel, put_number
from probcomp.coding.tensors import as_float32, as_rows, cell_of, get_tensor, put_tensor
from probcomp.errors import InputError

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]


def coded(tensor: torch.Tensor) -> tuple[bytes, bytes]:
    coder, raw = RangeEncoder(), bytearray()
    put_tensor(coder, raw, tensor, "w")
    return coder.finish(), bytes(raw)


def back(stream: bytes, raw: bytes, like: torch.Tensor) -> torch.Tensor:
    value, taken = get_tensor(RangeDecoder(stream), memoryview(raw), like)
    assert taken == len(raw)
    return value


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 6), max_size=4),
    st.sampled_from(TYPES),
    st.sampled_from([0, 1, 2, 7, 300]),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_any_tensor_comes_back(shape, kind, levels, share, seed):
    """Few values and many, sparse and dense, empty sides and single numbers."""
    generator = torch.Generator().manual_seed(seed)
    book = torch.randn(max(levels, 1), generator=generator)
    value = book[torch.randint(len(book), shape, generator=generator)]
    if levels == 0:
        value = torch.randn(shape, generator=generator)
    value = value * (torch.rand(shape, generator=generator) < share)
    value = (50 * value.abs()).to(kind) if not kind.is_floating_point else value.to(kind)
    found = back(*coded(value), torch.zeros(shape, dtype=kind))
    assert found.dtype == kind
    assert found.shape == value.shape
    assert torch.equal(found, value)


@given(st.integers(2, 200), st.integers(1, 8), st.floats(0.05, 1), st.integers(0, 999))
def test_few_values_cost_their_entropy(size, levels, share, seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(levels, size=(40, size))
    kept = rng.random((40, size)) < share
    kept[0] = kept[:, 0] = True
    tensor = torch.from_numpy(((1.0 + index) * kept).astype(np.float32))
    stream, raw = coded(tensor)
    n, k = 40 * size, int(kept.sum())
    mask = n * _entropy(k / n)
    # Beside both entropies: centroids of 16 bits, learning a mask in up to 256 contexts and the
    # values' shares, and a few numbers.
    bound = mask + k * math.log2(levels) + 16 * levels + 256 * math.log2(n + 1) + 8 * levels + 120
    assert 8 * (len(stream) + len(raw)) <= max(bound, 32 * k + mask + 300)


def _entropy(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_stream_raises_ours_or_gives_a_tensor_that_fits(data):
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(5, 3, 2, generator=generator).half().float()
    value[value < 0] = 0
    stream, raw = coded(value)
    stream = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        found, _ = get_tensor(RangeDecoder(bytes(stream)), memoryview(raw)[:cut], value)
    except InputError:
        return
    assert found.dim() == 3
    assert all(a <= b for a, b in zip(found.shape, value.shape))


def test_what_does_not_fit_the_model_is_told():
    stream, raw = coded(torch.ones(3, 4))
    with pytest.raises(InputError, match="holds 2 dimensions, the model has 1"):
        back(stream, raw, torch.zeros(3))
    with pytest.raises(InputError, match=r"holds shape \(3, 4\), more than the model's \(3, 3\)"):
        back(stream, raw, torch.zeros(3, 3))
    with pytest.raises(InputError, match="holds real numbers, the model has whole ones"):
        back(stream, raw, torch.zeros(3, 4, dtype=torch.int64))
    whole = coded(torch.ones(3, dtype=torch.int64))
    with pytest.raises(InputError, match="holds whole numbers, the model has real ones"):
        back(*whole, torch.zeros(3))
    stream, raw = coded(torch.randn(400))
    with pytest.raises(InputError, match="ends early"):
        get_tensor(RangeDecoder(stream), memoryview(raw)[:-1], torch.zeros(400))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="w holds NaN or infinite"):
        coded(torch.tensor([1.0, value]))


def test_values_that_float32_does_not_hold_are_refused():
    with pytest.raises(InputError, match="does not fit float32"):
        as_float32(torch.tensor([0.1], dtype=torch.float64), "w")
    assert as_float32(torch.tensor([0.5], dtype=torch.float64), "w").tolist() == [0.5]
    with pytest.raises(InputError, match="complex"):
        coded(torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("shape", "rows", "cell"),
    [((), (1, 1), 1), ((4,), (1, 4), 1), ((2, 3), (2, 3), 1), ((2, 3, 5, 5), (2, 75), 25),
     ((0, 4), (0, 4), 1)],
)  # fmt: skip
def test_matrices_of_tensors(shape, rows, cell):
    assert as_rows(np.zeros(shape)).shape == rows
    assert cell_of(shape) == cell


def crafted(values: torch.Tensor, book: list[int]) -> bytes:
    """A tensor of two values, whose words in the codebook are others."""
    coder = RangeEncoder()
    put_number(coder, 1)
    put_number(coder, len(values))
    coder.put(3, 1, 5)  # a codebook of float16
    put_mask(coder, (values != 0).numpy()[None], 1)
    put_number(coder, len(book) - 1)
    for word in book:
        coder.put(word, 1, 1 << 16)
    model = SymbolModel(len(book))
    for value in values.tolist():
        model.put(coder, int(value) - 1)
    return coder.finish()


def test_values_that_are_not_finite_are_refused_on_reading():
    values = torch.tensor([1.0, 2.0, 1.0])
    fine = back(crafted(values, [0x3C00, 0x4000]), b"", torch.zeros(3))
    assert torch.equal(fine, values)
    for word in (0x7C00, 0xFC00, 0x7E00):
        with pytest.raises(InputError, match=r"not finite numbers of torch.float32"):
            back(crafted(values, [0x3C00, word]), b"", torch.zeros(3))
    noise = torch.randn(400)
    stream, raw = coded(noise)
    for value in (math.nan, math.inf):
        wrong = np.frombuffer(raw, "<f4").copy()
        wrong[7] = value
        with pytest.raises(InputError, match="not finite"):
            back(stream, wrong.tobytes(), torch.zeros(400))
    with pytest.raises(InputError, match=r"not finite numbers of torch.float16"):
        back(*coded(torch.full((3,), 1e30)), torch.zeros(3, dtype=torch.float16))


@pytest.mark.parametrize(
    ("values", "kind"),
    [([2], torch.bool), ([-1], torch.bool), ([256], torch.uint8), ([-1], torch.uint8),
     ([2**31], torch.int32), ([-(2**31) - 1], torch.int32)],
)  # fmt: skip
def test_whole_numbers_that_the_type_does_not_hold_are_refused(values, kind):
    stream, raw = coded(torch.tensor(values))
    with pytest.raises(InputError, match=re.escape(f"whole numbers that {kind} does not")):
        back(stream, raw, torch.zeros(1, dtype=kind))


def test_the_ends_of_whole_numbers():
    ends = torch.tensor([-(2**63), 2**63 - 1, 0, -1])
    assert torch.equal(back(*coded(ends), torch.zeros_like(ends)), ends)
    coder = RangeEncoder()
    for number in (1, 1):
        put_number(coder, number)
    coder.put(4, 1, 5)
    put_number(coder, 2**64)  # twice 2**63
    with pytest.raises(InputError, match=r"whole numbers that torch.int64 does not"):
        back(coder.finish(), b"", ends[:1])


def test_a_stream_is_not_read_beyond_its_end():
    coder = RangeEncoder()
    for number in (1, 10**6):
        put_number(coder, number)
    coder.put(4, 1, 5)
    with pytest.raises(InputError, match="ends early"):
        back(coder.finish(), b"", torch.zeros(10**6, dtype=torch.int64))
