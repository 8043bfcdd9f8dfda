"""Tiles of a matrix that are kept or removed as one, with any prior over the grid of tiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.errors import InputError
from probcomp.priors.base import SupportPrior, as_support, check_count, check_dims


@dataclass(frozen=True, eq=False)
class Blocks(SupportPrior):
    """Each tile of the last two dimensions is one node of the prior ``over`` the tile grid.

    Where the tile does not divide the matrix, the last tiles are smaller. A prior over the last
    dimension only, such as a chain, sees the tiles of each row of tiles.

    Attributes:
        tile: Rows and columns of a tile, as the kernel that runs the result supports.
        over: Support prior on the grid of tiles, ``[*batch, ceil(R / rows), ceil(C / cols)]``.
    """

    tile: tuple[int, int]
    over: SupportPrior
    event_dim = 2

    def __post_init__(self) -> None:
        if not isinstance(self.tile, Sequence) or len(self.tile) != 2:
            raise InputError(f"Blocks: tile is a pair (rows, columns), got {self.tile!r}")
        object.__setattr__(self, "tile", tuple(self.tile))
        for name, side in zip(("tile rows", "tile columns"), self.tile):
            check_count("Blocks", name, side, least=1)
        if not isinstance(self.over, SupportPrior) or self.over.event_dim > 2:
            raise InputError(
                f"Blocks: over must be a support prior on at most two dimensions, got {self.over!r}"
            )

    @property
    def fixes_count(self) -> bool:  # type: ignore[override]
        """As the prior over the tiles does."""
        return self.over.fixes_count

    def check_fit(self, shape: Sequence[int]) -> None:
        self.over.check_fit(self.grid(shape))

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the tile grid of a matrix with this shape, batch included."""
        rows, cols = self.tile
        return (*tuple(shape)[:-2], -(-shape[-2] // rows), -(-shape[-1] // cols))

    def gather(self, values: Tensor) -> Tensor:
        """Sum of each tile, ``[*batch, R, C]`` to ``[*batch, grid rows, grid columns]``."""
        *_, down, across = self.grid(values.shape)
        rows, cols = self.tile
        short = (0, across * cols - values.shape[-1], 0, down * rows - values.shape[-2])
        tiles = pad(values, short).unflatten(-1, (across, cols)).unflatten(-3, (down, rows))
        return tiles.sum((-3, -1))

    def spread(self, tiles: Tensor, shape: Sequence[int]) -> Tensor:
        """Each tile's value at all its entries, cropped to the matrix ``shape``."""
        rows, cols = self.tile
        full = tiles.repeat_interleave(rows, -2).repeat_interleave(cols, -1)
        return full[..., : shape[-2], : shape[-1]]

    def over_grid(self, values: Tensor) -> Tensor:
        """Sum what the prior over tiles left as rows of tiles, so that one number is a matrix's."""
        return values.sum(-1) if self.over.event_dim == 1 else values

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        full = self.gather(values)
        whole = self.gather(torch.ones_like(values))
        uniform = ((full == 0) | (full == whole)).flatten(-2).all(-1)
        log_prob = self.over_grid(self.over.log_prob((full > 0).to(values.dtype)))
        return torch.where(uniform, log_prob, -torch.inf)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        return self.spread(self.over.sample(self.grid(shape), generator=generator), shape)
