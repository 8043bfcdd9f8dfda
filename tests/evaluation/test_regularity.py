import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probcomp.errors import InputError
from probcomp.evaluation import compare_with_magnitude, magnitude_mask, measure_regularity
from probcomp.evaluation.regularity import block_fill, context_code_bits, relative_index_bits

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=13))


def components(mask: np.ndarray) -> list[int]:
    """Sizes of 4-neighbour components by flood fill."""
    left = {(int(i), int(j)) for i, j in zip(*mask.nonzero())}
    sizes = []
    while left:
        stack, size = [left.pop()], 0
        while stack:
            i, j = stack.pop()
            size += 1
            for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        sizes.append(size)
    return sizes


def runs(mask: np.ndarray) -> list[int]:
    text = "\n".join("".join("x" if v else " " for v in row) for row in mask)
    return [len(run) for run in text.split()]


def sequential_bits(mask: np.ndarray) -> float:
    """The Krichevsky-Trofimov code, symbol by symbol, as the formula is written."""
    counts: dict[tuple, list[int]] = {}
    bits = 0.0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            near = tuple(
                bool(mask[a, b]) if a >= 0 and b >= 0 else False
                for a, b in ((i, j - 1), (i - 1, j), (i - 1, j - 1))
            )
            seen = counts.setdefault(near, [0, 0])
            symbol = int(mask[i, j])
            bits -= math.log2((seen[symbol] + 0.5) / (sum(seen) + 1))
            seen[symbol] += 1
    return bits


def index_entries(mask: np.ndarray, width: int) -> int:
    entries, gap = 0, 0
    for kept in mask.ravel():
        if kept:
            entries += 1
            gap = 0
        else:
            gap += 1
            if gap == 2**width:  # a filler stands for 2^width positions
                entries += 1
                gap = 0
    return entries - trailing_fillers(mask, width)


def trailing_fillers(mask: np.ndarray, width: int) -> int:
    """No filler is needed behind the last non-zero."""
    flat = mask.ravel()
    tail = len(flat) if not flat.any() else len(flat) - 1 - int(flat.nonzero()[0][-1])
    return tail // 2**width


@given(masks)
def test_against_brute_force(mask) -> None:
    found = measure_regularity(torch.from_numpy(mask.copy()))
    sizes, lengths = components(mask), runs(mask)
    assert found.clusters == len(sizes)
    assert found.singletons == sizes.count(1)
    assert found.nonzero == sum(sizes) == sum(lengths)
    if sizes:
        assert found.cluster_mean == pytest.approx(np.mean(sizes))
        assert found.cluster_median == np.median(sizes)
        assert found.run_mean == pytest.approx(np.mean(lengths))
    else:
        assert found.cluster_mean is found.cluster_median is found.run_mean is None
    assert found.code_bits == pytest.approx(sequential_bits(mask), abs=1e-8)
    for width in (4, 8):
        assert relative_index_bits(mask, width) == width * index_entries(mask, width)
    for side in (1, 3, 4):
        tiles = [
            mask[i : i + side, j : j + side]
            for i in range(0, mask.shape[0], side)
            for j in range(0, mask.shape[1], side)
        ]
        used = [tile for tile in tiles if tile.any()]
        fill = block_fill(mask, side)
        assert (fill.blocks, fill.occupied) == (len(tiles), len(used))
        expected = mask.sum() / sum(t.size for t in used) if used else None
        assert fill.fill == (pytest.approx(expected) if used else None)


@given(masks)
def test_correlations(mask) -> None:
    found = measure_regularity(torch.from_numpy(mask.copy()))
    p = mask.mean()
    both = [
        mask[i, j] and mask[i, j + 1] for i in range(len(mask)) for j in range(len(mask[0]) - 1)
    ]
    if both and 0 < p < 1:
        assert found.along_row == pytest.approx((np.mean(both) - p * p) / (p * (1 - p)))
    else:
        assert found.along_row is None
    turned = measure_regularity(torch.from_numpy(mask.T.copy()))
    assert turned.along_row == (
        None if found.along_column is None else pytest.approx(found.along_column)
    )


def test_checkerboard_against_block_at_equal_non_zeros() -> None:
    """The order that every figure should put them in."""
    i, j = np.indices((32, 32))
    checkers = measure_regularity(torch.from_numpy((i + j) % 2 == 0))
    block = measure_regularity(torch.from_numpy(j < 16))
    assert checkers.nonzero == block.nonzero == 512
    assert (checkers.clusters, block.clusters) == (512, 1)
    assert checkers.singletons == 512
    assert (checkers.run_mean, block.run_mean) == (1, 16)
    assert checkers.along_row < -0.9 < 0.8 < block.along_row
    for a, b in zip(checkers.blocks[:2], block.blocks[:2]):
        assert (a.fill, b.fill) == (0.5, 1.0)
    scattered = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    noise = measure_regularity(scattered <= scattered.flatten().kthvalue(512).values)
    assert noise.nonzero == 512
    assert noise.independent_bits == 1024
    # Both patterns are regular: the code sees it, the independent code does not.
    assert block.code_bits < 0.2 * noise.code_bits
    assert checkers.code_bits < 0.2 * noise.code_bits
    assert noise.code_bits > 0.97 * noise.independent_bits


def test_kernels_lie_in_rows() -> None:
    mask = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    mask[0, 1] = True
    found = measure_regularity(mask)
    assert (found.size, found.clusters, found.run_mean) == (24, 1, 4)


@given(st.integers(0, 99), st.floats(0, 1))
def test_magnitude_mask_keeps_the_largest(seed, density) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 7, generator=generator)
    like = torch.rand(5, 7, generator=generator) < density
    mask = magnitude_mask(weight, like)
    assert mask.sum() == like.sum()
    if 0 < mask.sum() < mask.numel():
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


def test_ties_are_settled_by_position() -> None:
    like = torch.tensor([True, True, False, False])
    assert magnitude_mask(torch.ones(4), like).tolist() == [True, True, False, False]


def test_comparison_with_and_without_weights() -> None:
    mask = torch.eye(6).bool()
    pair = compare_with_magnitude("w", mask, torch.randn(6, 6))
    assert pair.magnitude.nonzero == pair.ours.nonzero == 6
    assert compare_with_magnitude("w", mask, None).magnitude is None


def test_refuses() -> None:
    with pytest.raises(InputError, match="at least one weight"):
        measure_regularity(torch.zeros(0, 3))
    with pytest.raises(InputError, match="one shape"):
        magnitude_mask(torch.zeros(2, 3), torch.zeros(3, 2))


def test_code_length_of_a_constant_mask() -> None:
    """One context, n symbols alike: log2 of n! / (1/2)(3/2)...(n - 1/2)."""
    n = 50
    expected = sum(math.log2((t + 1) / (t + 0.5)) for t in range(n))
    assert context_code_bits(np.zeros((1, n), bool)) == pytest.approx(expected)
