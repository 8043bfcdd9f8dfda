r"""Wanda for structures: weight times the norm of what it is multiplied by.

.. math:: S_{ij} = |W_{ij}| \, \lVert x_j \rVert_2, \qquad
          s_j = \frac1{d_o} \sum_i S_{ij}, \qquad s_g = \sum_{j \in g} s_j

Sun, Liu, Bair and Kolter (2024), "A simple and effective pruning approach for large language
models", equation 1, for weights; the sum over the columns of a read-out that belong to a unit is
Wanda-sp of An, Zhao, Yu, Tang and Wang (2024), "Fluctuation-based adaptive structured pruning for
large language models" (FLAP), section 4.1. The norm is over all calibration rows divided by the
square root of the number of samples; the divisor changes no ranking within a read-out.
"""

from torch import Tensor

from probcomp.errors import InputError
from probcomp.evidence.collect import Statistics


def column_scores(weight: Tensor, statistics: Statistics) -> Tensor:
    """``s_j`` of each column, ``[di]``, float64.

    Args:
        weight: The read-out as a matrix ``[do, di]``.
        statistics: What it saw.

    Raises:
        InputError: Statistics of another width.
    """
    check_width(weight, statistics)
    square = statistics.gram.diagonal() / statistics.samples
    return weight.double().cpu().abs().mean(0) * square.sqrt()


def scores(weight: Tensor, statistics: Statistics, columns: Tensor) -> Tensor:
    """``s_g`` of each unit, ``[G]``, for ``columns`` ``[G, k]``."""
    return column_scores(weight, statistics)[columns].sum(1)


def check_width(weight: Tensor, statistics: Statistics) -> None:
    """Refuse statistics that are not those of this matrix."""
    if weight.dim() != 2 or statistics.gram.shape != (weight.shape[1],) * 2:
        raise InputError(
            f"a read-out {tuple(weight.shape)} needs the Gram matrix of its inputs, got "
            f"{tuple(statistics.gram.shape)}"
        )
    if statistics.count < 1 or statistics.samples < 1:
        raise InputError("the statistics hold no rows; collect them on at least one sample")
