r"""What a nat of the calibration data counts for when weights are judged, by the evidence.

With masks held, and the ``n`` removed weights drawn around zero as widely as data allow that count
``s`` times, the dense weights have the likelihood

.. math:: \ln p(w \mid s) = \tfrac n2 \ln s - s E + \mathrm{const},\qquad s = \frac n{2 E}

with ``E`` the loss, in nats of the calibration data, that removing them costs after the others have
adjusted (the quadratic form of the removed weights with the others integrated out). So the scale is
that at which a removed weight costs half a nat on average, as a draw from its posterior would. It
depends on the masks, and these on it, and this is no search for the point where both agree: there
is a first guess, and one step from it, to the scale of the masks that the first one made and that
were tempered since. What the last masks ask for is recorded beside it (``scale_of_masks``). With a
budget the two are near, and more steps would settle; without one each step keeps more weights, and
asks for a larger scale, without end.

The guess sums what each weight alone costs when all others make up for it (Hassibi and Stork 1993).
It is no bound: weights that make up for each other cost more together than the sum, and some cost
less together than alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from probcomp.inference.quadratic import Quadratic
from probcomp.inference.quadratic.likelihood import inverse

OCTAVES, BINS = 256, 2**15
"""Costs from 2^-256 to 2^256 nats, in bins of 1.1 %."""
SORTED = 2**20
"""Most weights whose costs are all held."""


def evidence_scale(removed: int, loss: float) -> float | None:
    """``n / (2 E)``; None where nothing goes or nothing is lost.

    Args:
        removed: Weights that go.
        loss: What that costs, nats of all the calibration data.
    """
    return removed / (2 * loss) if removed > 0 and loss > 0 else None


def single_costs(quadratic: Quadratic, rows: Tensor | None, *, widest: int) -> Tensor:
    r"""What each weight costs alone, the others free, :math:`g_r w_{rj}^2 / (2 [A^{-1}]_{jj})`.

    Layers with more inputs than ``widest`` are not inverted: there the others stay as they are,
    :math:`g_r w_{rj}^2 A_{jj} / 2`, which is no less.

    Args:
        quadratic: The likelihood of a layer.
        rows: Weight of each row's loss, ``[do]``; None is all one.
        widest: Most inputs of a layer whose precision is inverted.

    Returns:
        Nats of all the calibration data, ``[do, di]``.
    """
    if quadratic.size > widest:
        spread = quadratic.precision.diagonal().reciprocal()
    else:
        nothing = torch.zeros_like(quadratic.weight[0])
        spread = inverse(quadratic.precision, nothing).diagonal()
    costs = 0.5 * quadratic.weight.square() / spread
    return costs if rows is None else costs * rows.to(costs)[:, None]


def first_scale(costs: Iterable[Tensor], share: float) -> float:
    """The scale before any mask is known, from the cheapest weights of all layers.

    Few costs are sorted. Of many only bins are kept, one layer after the other; of the last bin a
    part goes, at its mean, and the scale is right to some 1e-5 of it.

    Args:
        costs: What each weight of each layer costs alone, see `single_costs`.
        share: Share of the weights that go, in (0, 1].
    """
    counts, sums = torch.zeros(2, BINS, dtype=torch.float64)
    held: list[Tensor] = []
    size = 0
    for layer in costs:
        flat = layer.flatten().double()
        size += len(flat)
        held = [*held, flat] if size <= SORTED else []
        place = ((flat.log2() + OCTAVES) * (BINS / (2 * OCTAVES))).clamp(0, BINS - 1).long()
        counts += torch.bincount(place, minlength=BINS)
        sums += torch.bincount(place, flat, minlength=BINS)
    count = max(1, round(share * size))
    if held:
        lost = float(torch.cat(held).sort().values[:count].sum())
    else:
        taken = (count - (counts.cumsum(0) - counts)).clamp(min=0).minimum(counts)
        lost = float((sums * (taken / counts.clamp(min=1))).sum())
    return evidence_scale(count, lost) or 1.0
