"""Block products in plain PyTorch: gather, multiply, add up. Any device, and the reference.

Symbols: M rows of input, R x C blocks of [BN, BK], nnz of them live.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.kernels.blocks import BlockIndex

FEW_ROWS = 8
"""Up to here a row of x times a transposed block is faster than a block times a column, by 4 times
at one row: the vendor's batched product is slow for narrow results."""


def _columns(x: Tensor, width: int, count: int) -> Tensor:
    """``[M, K]`` as ``[count, width, M]``, padded with zeros."""
    return pad(x, (0, count * width - x.shape[1])).t().reshape(count, width, x.shape[0])


def block_forward(x: Tensor, val: Tensor, at: BlockIndex, n: int) -> Tensor:
    """y[:, r] = sum over live blocks e of row r of x[:, col[e]] val[e]^T; ``[M, n]``."""
    _, bn, bk = val.shape
    rows, columns = at.crow.shape[0] - 1, at.ccol.shape[0] - 1
    if x.shape[0] <= FEW_ROWS:
        return _few_rows(x, val, at.col, at.erow, rows, columns)[:, :n].contiguous()
    blocks = _columns(x, bk, columns).index_select(0, at.col)  # [nnz, BK, M]
    products = torch.bmm(val, blocks)  # [nnz, BN, M]
    total = products.new_zeros(rows, bn, x.shape[0]).index_add_(0, at.erow, products)
    return total.view(rows * bn, x.shape[0])[:n].t().contiguous()


def _few_rows(x: Tensor, val: Tensor, col: Tensor, erow: Tensor, rows: int, columns: int) -> Tensor:
    """``[M, rows BN]``, with M first throughout."""
    m, (_, bn, bk) = x.shape[0], val.shape
    tiles = pad(x, (0, columns * bk - x.shape[1])).view(m, columns, bk).transpose(0, 1)
    products = torch.bmm(tiles.index_select(0, col), val.transpose(1, 2))  # [nnz, M, BN]
    total = products.new_zeros(rows, m, bn).index_add_(0, erow, products)
    return total.transpose(0, 1).reshape(m, rows * bn)


def block_backward_input(grad: Tensor, val: Tensor, at: BlockIndex, k: int) -> Tensor:
    """dx[:, c] = sum over live blocks e of column c of grad[:, row[e]] val[e]; ``[M, k]``."""
    nnz, bn, bk = val.shape
    rows, columns = at.crow.shape[0] - 1, at.ccol.shape[0] - 1
    owner = torch.repeat_interleave(
        torch.arange(columns, device=grad.device), at.ccol.diff().long(), output_size=nnz
    )
    blocks = _columns(grad, bn, rows).index_select(0, at.trow)  # [nnz, BN, M]
    products = torch.bmm(val.index_select(0, at.perm).transpose(1, 2), blocks)  # [nnz, BK, M]
    total = products.new_zeros(columns, bk, grad.shape[0]).index_add_(0, owner, products)
    return total.view(columns * bk, grad.shape[0])[:k].t().contiguous()


def block_backward_weight(
    grad: Tensor, x: Tensor, at: BlockIndex, block: tuple[int, int]
) -> Tensor:
    """dval[e] = grad[:, row[e]]^T x[:, col[e]], for live blocks only; ``[nnz, BN, BK]``."""
    rows, columns = at.crow.shape[0] - 1, at.ccol.shape[0] - 1
    left = _columns(grad, block[0], rows).index_select(0, at.erow)  # [nnz, BN, M]
    right = _columns(x, block[1], columns).index_select(0, at.col)  # [nnz, BK, M]
    return torch.bmm(left, right.transpose(1, 2))


def run_forward(x: Tensor, val: Tensor, ptr: Tensor, seg: Tensor, inverse: Tensor) -> Tensor:
    """Products of clustered runs: panels of rows over gathered segments of 16 columns."""
    segments, width, panel = val.shape
    panels = ptr.shape[0] - 1
    count = -(-x.shape[1] // width)
    pieces = _columns(x, width, count).index_select(0, seg // width)  # [S, SEG, M]
    products = torch.bmm(val.transpose(1, 2), pieces)  # [S, BN, M]
    owner = torch.repeat_interleave(
        torch.arange(panels, device=x.device), ptr.diff().long(), output_size=segments
    )
    total = products.new_zeros(panels, panel, x.shape[0]).index_add_(0, owner, products)
    return total.view(panels * panel, x.shape[0]).index_select(0, inverse).t().contiguous()
