"""Launch configurations of the block kernels: which can run, and the one that a table names.

A table's entry is measured by `probcomp.kernels.tuning` and holds for its own device only. Where
there is none, and with deterministic algorithms asked for, the fixed configuration runs.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from probcomp.kernels import tables
from probcomp.kernels.dispatch import m_bucket

SUMS = 64  # float32 sums that a thread may hold: compiled with 128 the kernel spills
SHARED = 65536  # bytes of shared memory a program may have where the device does not say


class Tile(NamedTuple):
    """Rows of a program's tile, its warps, and the stages of its loop."""

    rows: int
    warps: int
    stages: int


class Launch(NamedTuple):
    """What a configuration depends on. ``rows`` is the number of input rows, M."""

    kernel: str  # "block_forward" or "block_gemv"
    device: torch.device
    dtype: torch.dtype  # of the stored blocks
    block: tuple[int, int]
    shape: tuple[int, int]  # in whole blocks
    density: float
    rows: int

    def key(self) -> str:
        """Its key within a table, less the shape."""
        bucket = tables.density_bucket(self.density)
        return tables.case_key(self.kernel, self.dtype, self.block, m_bucket(self.rows), bucket)


_forced: ContextVar[Tile | None] = ContextVar("_forced", default=None)
_seen: ContextVar[list[tuple[Launch, Tile]] | None] = ContextVar("_seen", default=None)


def candidates(launch: Launch, fixed: Tile) -> list[Tile]:
    """Configurations worth timing, the fixed one first; those too big for the device left out."""
    heights = (fixed.rows,) if launch.rows <= 16 else (64, 128)
    every = [Tile(m, w, s) for m in heights for w in (2, 4, 8) for s in (3, 5, 7)]
    limit = _shared_limit(launch.device)
    able = [t for t in every if t != fixed and _fits(launch, t, limit)]
    return [fixed, *able]


def _fits(launch: Launch, tile: Tile, shared: int) -> bool:
    """Whether the sums of a thread stay in its registers, and the loads in shared memory."""
    if launch.kernel == "block_gemv":
        sums = launch.block[0] * launch.block[1]
    else:
        sums = tile.rows * launch.block[0]
    return sums <= SUMS * 32 * tile.warps and shared_bytes(launch, tile) <= shared


def shared_bytes(launch: Launch, tile: Tile) -> int:
    """Shared memory of a program, at most: what the compiled kernel says on sm_90 for 16 bits.

    A loop's stage in two only loads a column index. Other targets and narrow tiles need one buffer
    less. The tile of the output passes through shared memory too, on its way out. Beside int8
    blocks the input may be float32.
    """
    if launch.kernel == "block_gemv":
        return 0  # it reads its operands into registers
    tall, wide = launch.block
    size = launch.dtype.itemsize
    read = 4 if launch.dtype == torch.int8 else size
    indices = (tile.stages - 1) // 2
    loads = (indices + 1) * (tile.rows * read + tall * size) * wide + 4 * indices
    return max(loads, tile.rows * tall * read)


def _shared_limit(device: torch.device) -> int:
    if device.type != "cuda":
        return SHARED
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", SHARED))


def chosen(launch: Launch, fixed: Tile) -> Tile:
    """The configuration of a launch: forced by the tuner, from a table, or the fixed one."""
    forced, seen = _forced.get(), _seen.get()
    if seen is not None:
        seen.append((launch, fixed))
    if forced is not None:
        return forced
    if torch.are_deterministic_algorithms_enabled():
        return fixed
    return _from_table(launch._replace(rows=m_bucket(launch.rows) or 1025)) or fixed


def forget_tiles() -> None:
    """Read tables again at the next launch."""
    _from_table.cache_clear()


@functools.lru_cache(maxsize=4096)
def _from_table(launch: Launch) -> Tile | None:
    device = tables.device_name(launch.device.type, launch.device.index or 0)
    times = tables.tile_times(device, launch.key(), launch.shape)
    if not times:
        return None
    best = Tile(*map(int, min(times, key=times.__getitem__).split("/")))
    # A neighbour of the shape or the bucket may have had more room.
    return best if _fits(launch, best, _shared_limit(launch.device)) else None


@contextmanager
def using(tile: Tile) -> Iterator[None]:
    """Launch with this configuration for a while."""
    token = _forced.set(tile)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def watched() -> Iterator[list[tuple[Launch, Tile]]]:
    """The launches of a while, each with its fixed configuration."""
    seen: list[tuple[Launch, Tile]] = []
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def launch_of(
    kernel: str, val: torch.Tensor, rows: int, block_rows: int, block_columns: int
) -> Launch:
    """The launch of blocks ``val [nnz, BN, BK]`` on a grid of block rows and columns."""
    nnz, bn, bk = val.shape
    density = nnz / max(block_rows * block_columns, 1)
    shape = (block_rows * bn, block_columns * bk)
    return Launch(kernel, val.device, val.dtype, (bn, bk), shape, density, rows)
