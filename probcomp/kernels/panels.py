"""Tall row panels on a CPU: one gather of columns and one dense product for each block row."""

import itertools

import torch
from torch import Tensor

from probcomp.kernels.derived import derived


def _panels(val: Tensor, crow: Tensor, col: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each block row: the live columns of the input, and its weights ``[live K, BN]``."""
    _, bn, bk = val.shape
    inner = torch.arange(bk, device=val.device)
    panels = []
    bounds = crow.tolist()
    for lo, hi in itertools.pairwise(bounds):
        columns = (col[lo:hi].long().unsqueeze(1) * bk + inner).flatten()
        weight = val[lo:hi].transpose(1, 2).reshape((hi - lo) * bk, bn)
        panels.append((columns, weight.contiguous()))
    return panels


def panel_forward(x: Tensor, val: Tensor, crow: Tensor, col: Tensor, n: int, width: int) -> Tensor:
    """``x W^T`` by row panels; ``width`` is K padded to whole blocks. For frozen weights."""
    panels = derived(val, "panels", lambda: _panels(val.detach(), crow, col))
    if x.shape[1] != width:
        x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    parts = [torch.mm(x.index_select(1, columns), weight) for columns, weight in panels]
    return torch.cat(parts, 1)[:, :n].contiguous()
