r"""Least squares that does not believe a small calibration set too much.

The columns ``K`` that stay take over what a target asks beyond their dense weights,

.. math:: \min_{D, b} \sum_t \lVert y_t - D x_{tK} - b \rVert^2 + \lambda \bar a \lVert D \rVert^2,
          \qquad W'_K = W_K + D

with :math:`\bar a` the mean square of an input. The penalty is a Gaussian slab around the dense
weights. Its size is chosen between two halves of the samples: each half is fitted and the other
half scores it (two-fold cross-validation), from sums alone, so that the data are read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import DivergenceError, InputError

GRID = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties tried, over the mean square of an input; steps of a factor of about three."""
START = 4
"""Where the search begins: with ten thousand tokens the best penalties lie around 0.1."""
WIDE = 256
"""With more inputs than this penalties are compared in single precision."""
SCORED = 128
"""Penalties are compared on about this many outputs, evenly spread: one number is chosen."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows of inputs ``x`` and targets ``y``.

    Attributes:
        gram: ``sum x x^T``, [k, k].
        cross: ``sum x y^T``, [k, do].
        inputs: ``sum x``, [k].
        targets: ``sum y``, [do].
        square: ``sum y^2``, [do].
        count: Rows.
    """

    gram: Tensor
    cross: Tensor
    inputs: Tensor
    targets: Tensor
    square: Tensor
    count: int

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.gram + other.gram,
            self.cross + other.cross,
            self.inputs + other.inputs,
            self.targets + other.targets,
            self.square + other.square,
            self.count + other.count,
        )

    def beyond(self, weight: Tensor) -> "Moments":
        """The same rows with the targets ``y - W x``, for ``W`` [do, k]."""
        known = weight @ self.gram
        explained = 2 * (weight * self.cross.T).sum(1) - (known * weight).sum(1)
        return Moments(
            self.gram,
            self.cross - known.T,
            self.inputs,
            self.targets - weight @ self.inputs,
            self.square - explained,
            self.count,
        )

    def centred(self) -> "Moments":
        """The same with means taken out, as a free bias does it."""
        n = max(1, self.count)
        return Moments(
            self.gram - torch.outer(self.inputs, self.inputs) / n,
            self.cross - torch.outer(self.inputs, self.targets) / n,
            torch.zeros_like(self.inputs),
            torch.zeros_like(self.targets),
            self.square - self.targets.square() / n,
            self.count,
        )

    def single(self) -> "Moments":
        """The same in float32, but for the squares: small errors are differences of large ones."""
        gram, cross = self.gram.float(), self.cross.float()
        inputs, targets = self.inputs.float(), self.targets.float()
        return Moments(gram, cross, inputs, targets, self.square, self.count)

    def some(self, outputs: Tensor) -> "Moments":
        """The same rows with some of the outputs alone."""
        if len(outputs) == len(self.targets):
            return self
        cross, targets = self.cross[:, outputs].contiguous(), self.targets[outputs]
        return Moments(self.gram, cross, self.inputs, targets, self.square[outputs], self.count)

    def error(self, change: Tensor) -> float:
        """``sum |y - D x|^2`` for ``D`` [do, k]."""
        explained = 2 * (change * self.cross.T).sum() - ((change @ self.gram) * change).sum()
        return float(self.square.sum()) - float(explained)


@dataclass(frozen=True, eq=False)
class Fit:
    """A refit.

    Attributes:
        change: ``D``, [do, k].
        bias: ``b``, [do]; zero where none was allowed.
        ridge: The penalty that was chosen.
        error: Cross-validated error over that of no change, on the outputs that penalties were
            compared on; at most 1.
    """

    change: Tensor
    bias: Tensor
    ridge: float
    error: float


def fit(
    folds: Sequence[Moments],
    *,
    bias: bool,
    grid: Sequence[float] = GRID,
    start: float | None = None,
) -> Fit:
    """The refit of two halves of the data, with the penalty that generalises best between them.

    Args:
        folds: Moments of the two halves; if one is empty, nothing changes but the bias.
        bias: Whether a bias may absorb means.
        grid: Penalties in rising order; the search walks to the nearest minimum.
        start: The penalty of the grid where it begins, such as that of a refit like this one; by
            default the middle.

    Raises:
        InputError: Not two folds.
    """
    if len(folds) != 2:
        raise InputError(f"the refit needs two halves of the data, got {len(folds)} parts")
    whole = folds[0] + folds[1]
    every = [fold.centred() if bias else fold for fold in folds]
    chosen = (every[0].square + every[1].square > 0).nonzero().flatten()
    chosen = chosen[:: max(1, len(chosen) // SCORED)]
    used = [fold.some(chosen) for fold in every]
    scale = float(whole.gram.diagonal().sum()) / max(1, len(whole.gram) * whole.count)
    base = float(sum(fold.square.sum() for fold in used))
    empty = any(fold.count == 0 for fold in folds)  # nothing could say how much to believe
    if empty or not scale > 0 or not base > 0 or not len(whole.gram):
        change = whole.cross.T * 0.0
        return Fit(change, _offset(whole, change, bias), grid[-1], 1.0)

    known: dict[int, float] = {}
    rough = [fold.single() for fold in used] if len(whole.gram) > WIDE else used

    def score(index: int) -> float:
        """Cross-validated error; in single precision where the matrix is regular in it."""
        if not 0 <= index < len(grid):
            return float("inf")
        if index not in known:
            penalties = [grid[index] * scale * fold.count for fold in used]
            try:
                first, second = (_solve(fold, p) for fold, p in zip(rough, penalties))
                known[index] = rough[1].error(first) + rough[0].error(second)
            except DivergenceError:
                first, second = (_solve(fold, p) for fold, p in zip(used, penalties))
                known[index] = used[1].error(first) + used[0].error(second)
        return known[index]

    at = min(START, len(grid) - 1)
    if start is not None and start in grid:
        at = list(grid).index(start)
    while True:
        best = min((at, at - 1, at + 1), key=score)
        if best == at:
            break
        at = best
    if known[at] >= base and not _helps(every, grid[at] * scale):
        change = whole.cross.T * 0.0
        return Fit(change, _offset(whole, change, bias), grid[-1], 1.0)
    change = _solve(whole.centred() if bias else whole, grid[at] * scale * whole.count)
    return Fit(change, _offset(whole, change, bias), grid[at], min(1.0, known[at] / base))


def _helps(folds: Sequence[Moments], penalty: float) -> bool:
    """Whether refits of each half lower the error of all outputs in the other."""
    first, second = (_solve(fold, penalty * fold.count) for fold in folds)
    error = folds[1].error(first) + folds[0].error(second)
    return error < float(sum(fold.square.sum() for fold in folds))


def _solve(moments: Moments, penalty: float) -> Tensor:
    matrix = moments.gram.clone()
    matrix.diagonal().add_(penalty)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise DivergenceError("the Gram matrix of a refit is not positive definite; raise the grid")
    return torch.cholesky_solve(moments.cross, factor).T


def _offset(whole: Moments, change: Tensor, bias: bool) -> Tensor:
    if not bias:
        return torch.zeros_like(whole.targets)
    return (whole.targets - change @ whole.inputs) / max(1, whole.count)
