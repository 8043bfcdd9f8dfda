"""Block-compressed rows: live blocks of a fixed rectangular shape, indexed by row and by column."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.kernels.packed import PackedWeight, check_index, check_pointers, require


class BlockIndex(NamedTuple):
    """Where the live blocks of an ``R x C`` grid are, ``nnz`` of them, ordered by row.

    The column-compressed half walks the same blocks by column, for the gradient of the input, so
    values are stored once.
    """

    crow: Tensor  # int32 [R + 1]: blocks of row r are crow[r] .. crow[r + 1]
    col: Tensor  # int32 [nnz]: block column, rising within a row
    erow: Tensor  # int32 [nnz]: block row
    ccol: Tensor  # int32 [C + 1]: like crow, over columns
    trow: Tensor  # int32 [nnz]: block row, in column order
    perm: Tensor  # int32 [nnz]: block id, in column order
    row_order: Tensor  # int32 [R]: rows by falling number of live blocks


def block_index(live: Tensor) -> BlockIndex:
    """Index the true cells of a boolean grid ``[R, C]``."""
    erow, col = live.nonzero(as_tuple=True)
    by_column = torch.argsort(col * live.shape[0] + erow)
    zero = torch.zeros(1, dtype=torch.int64, device=live.device)
    index = BlockIndex(
        crow=torch.cat([zero, live.sum(1).cumsum(0)]),
        col=col,
        erow=erow,
        ccol=torch.cat([zero, live.sum(0).cumsum(0)]),
        trow=erow[by_column],
        perm=by_column,
        row_order=torch.argsort(live.sum(1), descending=True, stable=True),
    )
    return BlockIndex(*(tensor.to(torch.int32) for tensor in index))


def grid_shape(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """Number of block rows and block columns that cover ``shape``."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def as_blocks(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """View ``[N, K]`` as ``[R, C, BN, BK]``, padded with zeros up to whole blocks."""
    shape = (matrix.shape[0], matrix.shape[1])
    rows, columns = grid_shape(shape, block)
    padded = pad(matrix, (0, columns * block[1] - shape[1], 0, rows * block[0] - shape[0]))
    return padded.view(rows, block[0], columns, block[1]).transpose(1, 2)


def from_blocks(val: Tensor, erow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """Scatter ``val`` ``[nnz, BN, BK]`` into the dense ``[N, K]``."""
    block = (val.shape[1], val.shape[2])
    rows, columns = grid_shape(shape, block)
    full = val.new_zeros(rows, columns, *block)
    full[erow.long(), col.long()] = val
    whole = full.transpose(1, 2).reshape(rows * block[0], columns * block[1])
    return whole[: shape[0], : shape[1]].contiguous()


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BlockWeight(PackedWeight):
    """Live blocks ``val`` ``[nnz, BN, BK]`` (inner dimension last) and their `BlockIndex`.

    ``bitmap`` ``[nnz, BN, BK]`` (uint8) marks live entries where a live block has dead ones, so
    that training does not bring them back; None when every stored entry is live.
    """

    kind = "blocks"

    val: Tensor
    crow: Tensor
    col: Tensor
    erow: Tensor
    ccol: Tensor
    trow: Tensor
    perm: Tensor
    row_order: Tensor
    bitmap: Tensor | None = None

    @property
    def block(self) -> tuple[int, int]:
        return self.val.shape[1], self.val.shape[2]

    def validate(self) -> None:
        kind = self.kind
        require(self.val.dim() == 3, kind, f"val must be [nnz, BN, BK], got {self.val.dim()} dims")
        rows, columns = grid_shape(self.shape, self.block)
        nnz = self.val.shape[0]
        check_pointers(kind, "crow", self.crow, rows, nnz)
        check_pointers(kind, "ccol", self.ccol, columns, nnz)
        for name, limit in (("col", columns), ("erow", rows), ("trow", rows), ("perm", nnz)):
            require(getattr(self, name).dtype == torch.int32, kind, f"{name} must be int32")
            check_index(kind, name, getattr(self, name), nnz, limit)
        check_index(kind, "row_order", self.row_order, rows, rows)
        counts = self.crow.diff().long()
        of_row = torch.repeat_interleave(torch.arange(rows, device=counts.device), counts)
        require(bool((self.erow == of_row).all()), kind, "erow does not follow crow")
        key = self.erow.long() * columns + self.col
        require(
            bool((key.diff() > 0).all()),
            kind,
            "col must rise strictly within a row",
        )
        grid = torch.zeros(rows, columns, dtype=torch.bool, device=key.device)
        grid[self.erow.long(), self.col.long()] = True
        expected = block_index(grid)
        for name in ("ccol", "trow", "perm"):
            same = torch.equal(getattr(self, name), getattr(expected, name))
            require(same, kind, f"{name} does not index the same blocks as crow and col")
        order = self.row_order.long().sort().values
        require(
            torch.equal(order, torch.arange(rows, device=order.device)),
            kind,
            "row_order must be a permutation of the block rows",
        )
        if self.bitmap is not None:
            same = self.bitmap.shape == self.val.shape and self.bitmap.dtype == torch.uint8
            require(same, kind, "bitmap must be uint8 with the shape of val")

    def dense(self) -> Tensor:
        return from_blocks(self.val, self.erow, self.col, self.shape)

    @property
    def index(self) -> BlockIndex:
        return BlockIndex(*(getattr(self, name) for name in BlockIndex._fields))

    @property
    def stored(self) -> int:
        return self.val.numel()

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.val.dtype


def pack_blocks(
    weight: Tensor, support: Tensor, bias: Tensor | None, block: tuple[int, int]
) -> BlockWeight:
    """Keep the blocks of ``weight`` that hold a live entry of ``support`` ``[N, K]``."""
    grid = as_blocks(support, block).any(-1).any(-1)
    # Padding beyond N or K counts as live here: its values and gradients are zero anyway.
    inside = ~as_blocks(~support, block)[grid]
    folded = torch.where(support, weight, torch.zeros_like(weight))
    return BlockWeight(
        shape=(weight.shape[0], weight.shape[1]),
        bias=bias,
        live=int(support.sum()),
        val=as_blocks(folded, block)[grid].contiguous(),
        **block_index(grid)._asdict(),
        bitmap=None if bool(inside.all()) else inside.to(torch.uint8).contiguous(),
    )
