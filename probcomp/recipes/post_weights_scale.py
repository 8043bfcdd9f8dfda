r"""What a nat of the calibration data counts for when weights are judged, by the evidence.

With masks held, and the ``n`` removed weights drawn around zero as widely as data allow that count
``s`` times, the dense weights have the likelihood

.. math:: \ln p(w \mid s) = \tfrac n2 \ln s - s E + \mathrm{const},\qquad s = \frac n{2 E}

with ``E`` the loss, in nats of the calibration data, that removing them costs after the others have
adjusted (the quadratic form of the removed weights with the others integrated out). So the scale is
that at which a removed weight costs half a nat on average, as a draw from its posterior would. It
depends on the masks, and these on it: a scale that is too small makes masks whose loss seems to
confirm it. So the search comes from above, from what each weight costs when all others are free to
make up for it (Hassibi and Stork 1993), the least that it can.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from probcomp.inference.quadratic import Quadratic
from probcomp.inference.quadratic.likelihood import inverse


def evidence_scale(removed: int, loss: float) -> float | None:
    """``n / (2 E)``; None where nothing goes or nothing is lost.

    Args:
        removed: Weights that go.
        loss: What that costs, nats of all the calibration data.
    """
    return removed / (2 * loss) if removed > 0 and loss > 0 else None


def least_costs(quadratic: Quadratic, rows: Tensor | None) -> Tensor:
    r"""What each weight costs with all others free, :math:`g_r w_{rj}^2 / (2 [A^{-1}]_{jj})`.

    Args:
        quadratic: The likelihood of a layer.
        rows: Weight of each row's loss, ``[do]``; None is all one.

    Returns:
        Nats of all the calibration data, ``[do, di]``.
    """
    spread = inverse(quadratic.precision, torch.zeros_like(quadratic.weight[0])).diagonal()
    costs = 0.5 * quadratic.weight.square() / spread
    return costs if rows is None else costs * rows.to(costs)[:, None]


def first_scale(costs: Iterable[Tensor], share: float) -> float:
    """The scale before any mask is known, from above.

    Args:
        costs: What each weight of each layer costs at least, see `least_costs`.
        share: Share of the weights that go, in (0, 1].
    """
    every = torch.cat([c.flatten().double() for c in costs])
    count = min(max(1, round(share * len(every))), len(every))
    lost = float(every.sort().values[:count].sum())
    return evidence_scale(count, lost) or 1.0
