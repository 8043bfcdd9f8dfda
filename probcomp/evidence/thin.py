"""Linear layers of which much is zero, computed without it.

A pruned model that still has its dense shapes multiplies by zeros: rows of units that are gone, and
the columns that read them. A product over what is left has the same result, to rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORTH = 7 / 8
"""Copies are made only where less than this share of the rows, or columns, is left."""


@dataclass(frozen=True, eq=False)
class _Left:
    """What is left of a layer.

    Attributes:
        version: Versions of the weight and the bias that it was made from.
        weight: Without zero rows but one, and without zero columns.
        bias: Its bias.
        columns: Columns that are left; ``None`` for all.
        place: Where each output is among the rows; ``None`` for all in order.
    """

    version: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    columns: Tensor | None
    place: Tensor | None


class Thin:
    """Computes linear layers without rows and columns of zeros; what is left is remembered."""

    def __init__(self) -> None:
        self._known: dict[nn.Module, _Left] = {}

    def __call__(self, module: nn.Linear, x: Tensor) -> Tensor:
        """The output of a layer."""
        left = self._known.get(module)
        if left is None or left.version != _version(module):
            left = self._known[module] = _left(module)
        if left.columns is not None:
            x = gathered(x, left.columns)
        out = F.linear(x, left.weight, left.bias)
        return out if left.place is None else gathered(out, left.place)


def gathered(rows: Tensor, columns: Tensor) -> Tensor:
    """Some columns of rows [..., d]; one gather a row, many times faster than a mask."""
    flat = rows.reshape(-1, rows.shape[-1]).index_select(1, columns)
    return flat.view(*rows.shape[:-1], len(columns))


def plain(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose forward pass nobody replaced.

    Changes of tensors that were made in inference mode cannot be seen.
    """
    made = type(module) is nn.Linear and "forward" not in vars(module)
    return made and not any(p.is_inference() for p in module.parameters())


def _version(module: nn.Linear) -> tuple[int, ...]:
    return tuple(t._version for t in (module.weight, module.bias) if t is not None)


def _left(module: nn.Linear) -> _Left:
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    used = weight != 0
    live = used.any(1) if bias is None else used.any(1) | (bias != 0)
    columns = place = None
    some = used.any(0)
    if 0 < int(some.sum()) < WORTH * len(some):
        columns = some.nonzero().flatten()
        weight = weight[:, columns]
    if int(live.sum()) < WORTH * len(live):
        # One row of zeros stands for all of them.
        chosen = torch.cat([live.nonzero().flatten(), (~live).nonzero().flatten()[:1]])
        place = torch.where(live, live.cumsum(0) - 1, len(chosen) - 1)
        weight, bias = weight[chosen], None if bias is None else bias[chosen]
    return _Left(_version(module), weight, bias, columns, place)
