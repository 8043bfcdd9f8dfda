"""Uniform numbers that belong to a row: a hash of (seed, forward, position), never a stream.

So a row draws the same numbers alone, in any batch and at any place in it.
"""

import torch
from torch import Tensor


def _i64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _i64(0x9E3779B97F4A7C15)
_MIX = (_i64(0xBF58476D1CE4E5B9), _i64(0x94D049BB133111EB))


def _logical_shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The SplitMix64 finaliser (Steele et al. 2014) on int64, which wraps as uint64 does."""
    z = z + _GOLDEN
    z = (z ^ _logical_shift(z, 30)) * _MIX[0]
    z = (z ^ _logical_shift(z, 27)) * _MIX[1]
    return z ^ _logical_shift(z, 31)


def uniform(seeds: Tensor, forwards: Tensor, width: int) -> Tensor:
    """float64 [batch, width] in [0, 1). seeds, forwards: int64 [batch]."""
    place = torch.arange(width, device=seeds.device)
    z = _mix(_mix(_mix(seeds)[:, None] + forwards[:, None]) + place)
    return _logical_shift(z, 11).double() * 2.0**-53


def row_seeds(seed: int, rows: int) -> Tensor:
    """Independent seeds for the rows of a batch, int64 [rows]."""
    return _mix(torch.full((rows,), seed, dtype=torch.int64)) + torch.arange(rows)
