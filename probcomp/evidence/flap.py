r"""FLAP: how much a read-out's output fluctuates with a column of its input.

.. math:: v_j = \frac1T \sum_t (x_{tj} - \mu_j)^2, \qquad s_j = v_j \, \lVert W_{:j} \rVert^2

the expected squared error of the output when input ``j`` is replaced by its mean, exactly (WIFV of
An, Zhao, Yu, Tang and Wang 2024, "Fluctuation-based adaptive structured pruning for large language
models", equations 4 and 5). Scores of different layers are compared after standardisation,

.. math:: z_j = \frac{s_j - \operatorname{mean}_j s}{\operatorname{std}_j s}

within each read-out (equation 6), and a unit's score is the mean over its columns.

Departures from the published program, which has defects that its text has not: the variance is
that of all tokens around their mean (there: divided by sequences, with the running mean already
updated, and without the first sequence), and heads are not squared first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.evidence.collect import Statistics
from probcomp.evidence.wanda import check_width


def mean(statistics: Statistics) -> Tensor:
    """Mean input ``mu`` of each column, ``[di]``."""
    return statistics.sum / statistics.count


def variance(statistics: Statistics) -> Tensor:
    """Variance ``v`` of each column over all rows, ``[di]``."""
    return (statistics.gram.diagonal() / statistics.count - mean(statistics).square()).clamp_min(0)


def column_scores(weight: Tensor, statistics: Statistics) -> Tensor:
    """``s_j`` of each column, ``[di]``, in squared units of output for one row.

    Args:
        weight: The read-out as a matrix ``[do, di]``.
        statistics: What it saw.

    Raises:
        InputError: Statistics of another width.
    """
    check_width(weight, statistics)
    return variance(statistics) * weight.double().cpu().square().sum(0)


def standardised(parts: Sequence[Tensor]) -> Tensor:
    """Unit scores ``[G]``, comparable between axes.

    Args:
        parts: For each read-out of the axis the scores of its units' columns, ``[G, k]``. One
            read-out gives the published score; the columns of several are taken together.

    Raises:
        InputError: No read-out, or read-outs with different units.
    """
    if not parts or len({len(part) for part in parts}) != 1:
        raise InputError(
            f"expected the column scores [G, k] of one axis, got {[tuple(p.shape) for p in parts]}"
        )
    together = torch.cat(list(parts), 1)
    spread = together.std(correction=1) if together.numel() > 1 else together.new_tensor(0.0)
    centred = together - together.mean()
    # columns that are all alike say nothing about their units
    scaled = centred / spread if float(spread) > 0 else torch.zeros_like(centred)
    return scaled.mean(1)
