r"""Running sums of products over rows: float64 sums of products in the rows' own precision.

``X^T X`` is symmetric, so only its lower half is computed, in panels of columns; the other half is
copied once at the end.
"""

import torch
from torch import Tensor

from probcomp.recovery.ridge import Moments

PANEL = 256
"""Columns of a panel of a symmetric product."""


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32: a product rounded to 8 bits is no positive definite matrix."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class SymmetricSum:
    """``sum X^T X`` of batches of rows, [d, d], float64.

    Args:
        width: ``d``.
        device: Where the sum is held.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self._lower = torch.zeros(width, width, dtype=torch.float64, device=device)
        self._panel = PANEL if width >= 2 * PANEL else width

    def add(self, rows: Tensor) -> None:
        """Rows [n, d], float32 or float64, on any device."""
        width = len(self._lower)
        for first in range(0, width, self._panel):
            last = min(first + self._panel, width)
            product = rows[:, first:last].T @ rows[:, :last]
            self._lower[first:last, :last] += product.to(self._lower.device)

    def whole(self) -> Tensor:
        """The sum so far; exactly symmetric. It is no copy: nothing may be added afterwards."""
        width = len(self._lower)
        for first in range(0, width, self._panel):
            last = min(first + self._panel, width)
            block = self._lower[first:last]
            self._lower[:first, first:last] = block[:, :first].T
            inner = block[:, first:last]
            inner.copy_(inner.tril() + inner.tril(-1).T)
        return self._lower


class MomentSums:
    """The sums of `probcomp.recovery.ridge.Moments`.

    Args:
        inputs: Width of ``x``.
        outputs: Width of ``y``.
        device: Where the rows are, and the sums.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        empty = torch.zeros(0, dtype=torch.float64, device=device)
        self._gram = SymmetricSum(inputs, device)
        self._cross = empty.new_zeros(inputs, outputs)
        self._inputs, self._targets = empty.new_zeros(inputs), empty.new_zeros(outputs)
        self._square, self._count = empty.new_zeros(outputs), 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows of inputs [n, inputs] and of targets [n, outputs]."""
        x, y = at_least_single(x), at_least_single(y)
        self._gram.add(x)
        self._cross += x.T @ y
        self._inputs += x.sum(0)
        self._targets += y.sum(0)
        self._square += y.square().sum(0)  # pairwise, as the products
        self._count += len(x)

    def whole(self) -> Moments:
        """The moments of all rows; nothing may be added afterwards."""
        gram, inputs, targets = self._gram.whole(), self._inputs, self._targets
        return Moments(gram, self._cross, inputs, targets, self._square, self._count)
