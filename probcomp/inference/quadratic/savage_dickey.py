r"""Evidence for each group of columns with everything else kept: one inverse, no iteration.

With every weight under a slab :math:`N(0, 1/\alpha)`, posterior covariance
:math:`C = (A + \alpha I)^{-1}` of each row and mean :math:`m = B C`, the Bayes factor of a group
against the group at zero is the Savage-Dickey ratio of prior and posterior density at zero,

.. math:: l_G = \tfrac12 \sum_r m_{rG}^\top (C_{GG})^{-1} m_{rG}
          + \tfrac{d_o}{2} \ln\det(\alpha C_{GG})

The first term is the saliency of Optimal Brain Surgeon (Hassibi and Stork 1993; for groups,
Kurtic et al. 2023, "ZipLM", eq. 3), the second is Occam's price of a group's freedom. Where ``A``
is diagonal the first is that of Optimal Brain Damage (LeCun, Denker and Solla 1990).
"""

import math

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.likelihood import Quadratic, cholesky, inverse


def column_evidence(quadratic: Quadratic, columns: Tensor, slab: float) -> Tensor:
    """Savage-Dickey evidence that each group is needed while all others stay, ``[G]``, nats.

    Args:
        quadratic: The likelihood.
        columns: Columns of each group, ``[G, k]``; no column twice.
        slab: Precision ``alpha`` of the slab, nats per squared weight.

    Raises:
        InputError: Columns that do not fit, or a slab that is not positive.
    """
    check_columns(columns, quadratic.size)
    if not (math.isfinite(slab) and slab > 0):
        raise InputError(f"slab must be a positive precision, got {slab}")
    site = quadratic.gram.new_full((quadratic.size,), slab)
    covariance = inverse(quadratic.precision, site)
    mean = quadratic.linear @ covariance
    block, weight = group_blocks(covariance, columns), group_rows(mean, columns)
    factor = cholesky(block)
    whitened = torch.linalg.solve_triangular(factor, weight.mT, upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    occam = log_det + columns.shape[1] * math.log(slab)
    return 0.5 * (whitened.square().sum((-2, -1)) + quadratic.rows * occam)


def group_blocks(matrix: Tensor, columns: Tensor) -> Tensor:
    """Diagonal blocks ``[G, k, k]`` of a square matrix."""
    return matrix[columns[:, :, None], columns[:, None, :]]


def group_rows(matrix: Tensor, columns: Tensor) -> Tensor:
    """Columns of each group, ``[do, di]`` to ``[G, do, k]``."""
    return matrix[:, columns].movedim(0, 1)


def check_columns(columns: Tensor, size: int) -> None:
    """Refuse a table of columns that is no ``[G, k]`` of different numbers below ``size``."""
    if not isinstance(columns, Tensor) or columns.dim() != 2 or columns.numel() == 0:
        got = tuple(columns.shape) if isinstance(columns, Tensor) else type(columns).__name__
        raise InputError(f"columns must be an integer tensor [groups, columns a group], got {got}")
    if columns.dtype not in (torch.int64, torch.int32):
        raise InputError(f"columns must be integers, got {columns.dtype}")
    low, high = int(columns.min()), int(columns.max())
    if low < 0 or high >= size:
        raise InputError(f"columns must be in 0..{size - 1}, got {low}..{high}")
    if len(columns.unique()) < columns.numel():
        raise InputError("a column belongs to one group at most, but some are named twice")
