r"""A coherent set of units: swaps that raise the posterior of the set at the same count.

Marginals rank units one at a time; of two that stand in for each other both may look half needed.
Starting from a set, the kept unit with the least conditional log-odds is taken out, the one outside
with the most is put in, and the swap stays if the set's log posterior rises,

.. math:: \ln p(S' \mid D) - \ln p(S \mid D)
          = (l_j + \psi_j)(S \setminus i) - (l_i + \psi_i)(S \setminus i)

This is iterated conditional modes (Besag 1986) over pairs. Each trial costs two low-rank updates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.group import GroupFactor, GroupResult, check_axis
from probcomp.inference.quadratic.pivot import Pivot

REFRESH = 200
"""Moves after which the tables are made anew."""


def exchange(
    factors: Sequence[GroupFactor],
    result: GroupResult,
    kept: Tensor,
    *,
    trials: int = 400,
    patience: int = 30,
) -> Tensor:
    """Swap units while that raises the set's posterior; the number kept stays.

    Costs enter through the price of ``result``, so with unequal costs the expected total moves
    only where the evidence pays for it.

    Args:
        factors: The axis's consumers.
        result: Where the extrinsic log-odds, price and slabs come from.
        kept: The set to start from, boolean ``[G]``.
        trials: Most swaps tried.
        patience: Stop after this many kept units in a row for which no better stand-in exists.

    Returns:
        The improved set, boolean ``[G]``.

    Raises:
        InputError: A set that does not fit.
    """
    units = check_axis(factors)
    if kept.dtype != torch.bool or kept.shape != (units,):
        raise InputError(f"kept must be boolean [{units}], got {kept.dtype} {tuple(kept.shape)}")
    if bool(kept.all()) or not bool(kept.any()):
        return kept.clone()
    psi = result.log_odds - result.evidence
    pivots = [Pivot(f.quadratic, f.columns, s, kept) for f, s in zip(factors, result.slabs)]
    settled = torch.zeros_like(kept)
    stuck = moves = 0
    for _ in range(trials):
        now = pivots[0].kept
        odds = _odds(pivots, psi)
        movable = now & ~settled
        if stuck >= patience or not bool(movable.any()):
            break
        out = int(torch.where(movable, odds, torch.inf).argmin())
        _toggle(pivots, out)
        best = int(torch.where(pivots[0].kept, -torch.inf, _odds(pivots, psi)).argmax())
        _toggle(pivots, best)
        if best == out:
            settled[out], stuck = True, stuck + 1
        else:
            settled.fill_(False)
            stuck = 0
        moves += 2
        if moves % REFRESH == 0:
            for pivot in pivots:
                pivot.refresh()
    return pivots[0].kept.clone()


def _odds(pivots: list[Pivot], psi: Tensor) -> Tensor:
    return torch.stack([pivot.evidence() for pivot in pivots]).sum(0) + psi


def _toggle(pivots: list[Pivot], unit: int) -> None:
    for pivot in pivots:
        pivot.toggle(unit)
