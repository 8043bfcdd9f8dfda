"""Block rows as panels on a CPU, with no compiler: one gather and one batched dense product.

The live blocks of a block row stand side by side as one matrix ``[BN, L BK]``. Rows of about the
same number of blocks are padded to the same L, so that one batched product runs all of them: the
vendor's call costs as much as a small block, and is paid once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.derived import derived

ALIKE = 0.8  # rows share a batch while the shortest has this share of the blocks of the longest
FEW_ROWS = 8
LOW = 32


class _Group(NamedTuple):
    """Block rows of one batch."""

    columns: Tensor  # [R' L]: block column of each place; where there is no block, one past the end
    weight: Tensor  # [R', L BK, BN], or with outputs first [R', BN, L BK]


class _Panels(NamedTuple):
    groups: list[_Group]
    inverse: Tensor | None  # [R]: place of each block row among those of the groups and the empty
    empty: int  # block rows without a block, after all others


def _build(val: Tensor, blocks: BlockIndex, outputs_first: bool) -> _Panels:
    _, bn, bk = val.shape
    crow, col, columns = blocks.crow, blocks.col, blocks.ccol.shape[0] - 1
    counts = crow.diff().long()
    order = torch.argsort(counts, descending=True, stable=True)
    groups, at = [], 0
    live = int((counts > 0).sum())
    while at < live:
        longest = int(counts[order[at]])
        alike = int((counts[order[at:live]] >= ALIKE * longest).sum())
        rows = order[at : at + alike]
        place = torch.arange(longest, device=val.device)
        held = place < counts[rows].unsqueeze(1)  # [R', L]
        block = (crow.long()[rows].unsqueeze(1) + place)[held]
        index = torch.full(held.shape, columns, dtype=torch.int64, device=val.device)
        index[held] = col.long()[block]
        weight = val.new_zeros(alike, longest, bn, bk)
        weight[held] = val[block]
        shape = (alike, bn, longest * bk) if outputs_first else (alike, longest * bk, bn)
        axes = (0, 2, 1, 3) if outputs_first else (0, 1, 3, 2)
        groups.append(_Group(index.flatten(), weight.permute(axes).reshape(shape).contiguous()))
        at += alike
    sorted_already = bool((order.diff() > 0).all())
    inverse = None if sorted_already else torch.argsort(order)
    return _Panels(groups, inverse, counts.shape[0] - live)


def panel_forward(x: Tensor, val: Tensor, at: BlockIndex, n: int) -> Tensor:
    """``x W^T`` for a frozen weight; ``[M, n]``."""
    _, bn, bk = val.shape
    m, rows, columns = x.shape[0], at.crow.shape[0] - 1, at.ccol.shape[0] - 1
    # Measured: on several threads low blocks are up to twice as fast with the batch last.
    outputs_first = m > FEW_ROWS and bn <= LOW and torch.get_num_threads() > 1

    def build() -> _Panels:
        return _build(val.detach(), at, outputs_first)

    panels = derived(val, ("panels", outputs_first), build)
    # One tile of zeros more: what no block reads stays out of the result, even a NaN.
    wide = pad(x, (0, (columns + 1) * bk - x.shape[1]))
    product = _outputs_first if outputs_first else _rows_first
    parts = product(wide, panels.groups, bk)
    if panels.empty:
        parts.append(x.new_zeros(m, panels.empty, bn))
    y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if panels.inverse is not None:
        y = y.index_select(1, panels.inverse)
    return y.reshape(m, rows * bn)[:, :n].contiguous()


def _rows_first(x: Tensor, groups: list[_Group], bk: int) -> list[Tensor]:
    """``[M, R', BN]`` of each group, from ``[M, L BK] [L BK, BN]``."""
    tiles = x.view(x.shape[0], -1, bk)
    parts = []
    for columns, weight in groups:
        read = tiles.index_select(1, columns).view(x.shape[0], *weight.shape[:2])
        parts.append(torch.bmm(read.transpose(0, 1), weight).transpose(0, 1))
    return parts


def _outputs_first(x: Tensor, groups: list[_Group], bk: int) -> list[Tensor]:
    """``[M, R', BN]`` of each group, from ``[BN, L BK] [L BK, M]``."""
    tiles = x.t().reshape(-1, bk, x.shape[0])
    parts = []
    for columns, weight in groups:
        read = tiles.index_select(0, columns).view(weight.shape[0], weight.shape[2], x.shape[0])
        parts.append(torch.bmm(weight, read).permute(2, 0, 1))
    return parts
