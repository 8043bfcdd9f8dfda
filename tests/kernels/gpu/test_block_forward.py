"""The programs of a forward launch: which blocks each walks, and what a launch passes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.kernels import pack, quantise
from probcomp.kernels.blocks import block_index
from probcomp.kernels.gpu import block_forward
from probcomp.kernels.gpu.block_forward import LONG_ROW, pieces, tile
from tests.kernels.gpu.recorder import covered, record
from tests.kernels.supports import block_support


def walked(work) -> list[int]:
    spans = zip(work["lo"].tolist(), work["hi"].tolist())
    return [block for lo, hi in spans for block in range(lo, hi)]


@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=20))
def test_every_block_is_walked_once_by_a_program_of_its_row(counts) -> None:
    live = torch.arange(12) < torch.tensor(counts)[:, None]
    at = block_index(live)
    work = pieces(at.crow, at.row_order)
    assert sorted(walked(work)) == list(range(sum(counts)))
    for lo, hi, row in zip(work["lo"].tolist(), work["hi"].tolist(), work["row"].tolist()):
        assert at.crow[row] <= lo <= hi <= at.crow[row + 1]
    # An empty row has a program too: it writes the bias.
    assert set(work["row"].tolist()) == set(range(len(counts)))
    mean = sum(counts) / len(counts)
    assert work["split"] == (max(counts) > max(LONG_ROW * mean, 1))
    if work["split"]:
        assert (work["hi"] - work["lo"]).max() <= max(1, round(mean))
        for r, (first, last) in enumerate(zip(work["first"][:-1], work["first"][1:])):
            assert work["row"][first:last].tolist() == [r] * int(last - first)
    else:
        lengths = (work["hi"] - work["lo"]).tolist()
        assert lengths == sorted(lengths, reverse=True)


def test_tiles_are_low_for_few_rows() -> None:
    assert {tile(rows, (64, 32))[0] for rows in (1, 2, 16)} == {16}
    assert tile(100, (64, 32))[0] == 64
    assert tile(4096, (64, 32))[0] == 128
    assert tile(17, (128, 64)) == (128, 8, 5)


def example(n=70, k=60, density=0.5):
    support = block_support((n, k), (32, 16), density, 1)
    return pack(torch.randn(n, k), support, block=(32, 16), format="blocks", bias=torch.ones(n))


@pytest.mark.parametrize("rows", [2, 200])
def test_a_launch_covers_rows_and_block_rows(rows: int, monkeypatch) -> None:
    packed, seen = example(), record(monkeypatch, block_forward, "block_forward")
    y = block_forward.launch(
        torch.randn(rows, 60), packed.val, packed.index, None, packed.bias, 70, "gelu"
    )
    assert y.shape == (rows, 70)
    assert covered(seen.grid[0], seen.sent["BM"], rows)
    assert seen.grid[1] == 3  # 70 outputs in blocks of 32
    assert seen.sent["x_ptr"].shape == (rows, 64)  # whole blocks of columns
    assert (seen.sent["M"], seen.sent["N"], seen.sent["ACT"]) == (rows, 70, 2)
    assert seen.sent["BIAS"]
    assert not seen.sent["SCALE"]
    assert not seen.sent["SPLIT"]


def test_long_rows_are_cut_and_their_parts_added(monkeypatch) -> None:
    support = torch.zeros(32 * 16, 16 * 32, dtype=torch.bool)
    support[:32], support[:, :16] = True, True  # one row of 32 blocks, 15 of one
    packed = quantise(pack(torch.randn(512, 512), support, block=(32, 16), format="blocks"))
    first = record(monkeypatch, block_forward, "block_forward")
    second = record(monkeypatch, block_forward, "block_forward_sum")
    at, scale = packed.index, packed.scale
    block_forward.launch(torch.randn(5, 512), packed.val, at, scale, None, 512, "none")
    assert first.sent["SPLIT"]
    assert first.sent["SCALE"]
    assert first.sent["part_ptr"].shape == (first.grid[1], 5, 32)
    assert second.grid == (first.grid[0], 16)
    assert second.sent["part_ptr"] is first.sent["part_ptr"]
    assert int(second.sent["first_ptr"][-1]) == first.grid[1]
