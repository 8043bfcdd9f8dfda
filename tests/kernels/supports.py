"""Supports and references that the tests of this folder share."""

import torch
from torch import Tensor

from probcomp.kernels.blocks import as_blocks, grid_shape


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block_support(
    shape: tuple[int, int], block: tuple[int, int], density: float, seed: int = 0
) -> Tensor:
    """Random live blocks as an element mask ``[N, K]``."""
    grid = torch.rand(grid_shape(shape, block), generator=generator(seed)) < density
    whole = grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return whole[: shape[0], : shape[1]]


def bursts(rows: int, columns: int, patterns: int, seed: int = 0) -> Tensor:
    """Rows that each follow one of a few burst patterns, in random order."""
    rng = generator(seed)
    table = torch.zeros(patterns, columns, dtype=torch.bool)
    for pattern in table:
        start = int(torch.randint(0, columns - 32, (1,), generator=rng))
        pattern[start : start + 32] = True
    return table[torch.randint(0, patterns, (rows,), generator=rng)]


def folded(weight: Tensor, support: Tensor) -> Tensor:
    """The masked weight by gathering live entries into zeros, in float64."""
    dense = torch.zeros(weight.shape, dtype=torch.float64)
    dense[support] = weight[support].double()
    return dense


def relative_error(got: Tensor, expected: Tensor) -> float:
    """||got - expected|| / ||expected||, worst over nothing; NaN where got has one."""
    scale = expected.double().norm()
    return float((got.double() - expected.double()).norm() / scale.clamp_min(1e-30))


__all__ = ["as_blocks", "block_support", "bursts", "folded", "generator", "relative_error"]
