"""Block rows as panels: rows of unlike length, both orientations, and what must stay out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.kernels import pack, panels
from probcomp.kernels.panels import panel_forward
from tests.kernels.supports import block_support, folded, generator, relative_error

FLOAT32 = 2e-6


def run(x, packed):
    return panel_forward(x, packed.val, packed.index, packed.shape[0])


@settings(max_examples=40)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 6), bn=st.sampled_from([3, 16, 32, 128]),
    bk=st.sampled_from([1, 8, 16]), m=st.sampled_from([1, 8, 9, 20]),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]), threads=st.sampled_from([1, 2]),
    cut=st.integers(0, 2), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_the_masked_product(rows, columns, bn, bk, m, density, threads, cut, seed) -> None:
    n, k = max(1, rows * bn - cut), max(1, columns * bk - cut)
    weight = torch.randn(n, k, generator=generator(seed))
    support = block_support((n, k), (bn, bk), density, seed + 1)
    packed = pack(weight, support, block=(bn, bk), format="blocks")
    x = torch.randn(m, k, generator=generator(seed + 2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)  # two threads turn low blocks round
        y = run(x, packed)
    finally:
        torch.set_num_threads(before)
    expected = x.double() @ folded(weight, support).T
    assert y.shape == (m, n)
    assert (y - expected).norm() <= FLOAT32 * (1 + expected.norm())


def test_rows_of_like_length_share_a_batch_and_long_ones_do_not_pad_the_short() -> None:
    grid = torch.zeros(6, 20, dtype=torch.bool)
    for row, count in enumerate((2, 20, 2, 0, 19, 2)):
        grid[row, :count] = True
    packed = pack(torch.randn(96, 320), grid, block=(16, 16), format="blocks")
    built = panels._build(packed.val, packed.index, False)
    assert [group.weight.shape[0] for group in built.groups] == [2, 3]
    assert built.empty == 1
    stored = sum(group.weight.numel() for group in built.groups)
    assert stored <= packed.val.numel() / panels.ALIKE


@pytest.mark.parametrize("threads", [1, 2])
def test_what_no_block_reads_stays_out(threads: int) -> None:
    grid = torch.tensor([[True, False, True], [True, False, False]])
    packed = pack(torch.randn(32, 48), grid, block=(16, 16), format="blocks")
    x = torch.randn(12, 48)
    clean = run(x, packed)
    x[:, 16:32] = float("nan")
    x[3, 40] = float("inf")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = run(x, packed)
    finally:
        torch.set_num_threads(before)
    finite = y.isfinite()
    assert finite[:, 16:].all()  # the second row reads neither
    assert finite.all(1).tolist() == [True] * 3 + [False] + [True] * 8
    assert relative_error(y[:3], clean[:3]) < FLOAT32
