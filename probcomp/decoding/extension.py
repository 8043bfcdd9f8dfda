r"""How far should the window reach: posterior expected utility of adding n positions.

    U(n) = -c_tr P_b S_0(W + n) / S_0(W) - c_pos T n

where P_b = P(E > W | data), beyond the window the length prior decides, c_tr is the cost of a cut
answer, c_pos of one position in one forward, and T the forwards still needed.
"""

import math

import torch
from torch import Tensor

from probcomp.errors import InputError


def utilities(
    actions: Tensor,
    length: Tensor,
    beyond: Tensor,
    log_survival: Tensor,
    forwards: Tensor,
    *,
    cost_truncation: float,
    cost_position: float,
) -> Tensor:
    """U(n) per row and action.

    Args:
        actions: n, [actions], none below 0.
        length: W, [batch].
        beyond: P_b, [batch].
        log_survival: log S_0(0..longest), [longest + 1].
        forwards: T, [batch].

    Returns:
        [batch, actions]; -inf where W + n is past ``longest``.
    """
    longest = len(log_survival) - 1
    target = length[:, None] + actions
    reach = (
        log_survival[target.clamp(max=longest)] - log_survival[length.clamp(max=longest)][:, None]
    )
    cut = cost_truncation * beyond[:, None] * reach.exp()
    value = -cut - cost_position * forwards[:, None] * actions
    return value.masked_fill(target > longest, -math.inf)


def best_extension(actions: Tensor, utility: Tensor) -> Tensor:
    """The action of highest utility; ties go to the smaller n. [batch]."""
    order = actions.argsort()
    return actions[order][utility[:, order].argmax(1)]


def closed_form(
    beyond: float, hazard: float, forwards: float, cost_truncation: float, cost_position: float
) -> float:
    r"""The real-valued maximiser of U under a constant hazard, at least 0.

    n* = log[c_pos T / (c_tr P_b (-log(1 - h)))] / log(1 - h)
    """
    rate = -math.log1p(-hazard)
    return max(0.0, math.log(cost_position * forwards / (cost_truncation * beyond * rate)) / -rate)


def lookahead_utilities(
    length: int,
    beyond: float,
    log_survival: Tensor,
    forwards: float,
    *,
    cost_truncation: float,
    cost_position: float,
    cost_again: float = 0.0,
    grid: int = 8,
) -> Tensor:
    """U(n) on the grid when the window may be extended again later, by backward induction.

    V_j is the value at window W + grid j given that the text goes on past it:

        V_j = max(-c_tr, -c_pos T grid - c_again + q_j V_{j+1}),  q_j = S_0(W_{j+1}) / S_0(W_j)
        U(grid j) = -c_pos T grid j + P_b S_0(W_j) / S_0(W) V_j

    Later growth is paid for only if the text is then known to go on. float64 [steps + 1].
    """
    steps = (len(log_survival) - 1 - length) // grid
    if steps < 0:
        raise InputError(f"the window of {length} is longer than the survival table")
    survival = log_survival[length : length + steps * grid + 1 : grid].double()
    price = cost_position * forwards * grid
    value = [-cost_truncation]
    for j in range(steps - 1, -1, -1):
        again = -price - cost_again + math.exp(survival[j + 1] - survival[j]) * value[0]
        value.insert(0, max(-cost_truncation, again))
    reach = (survival - survival[0]).exp()
    return -price * torch.arange(steps + 1) + beyond * reach * torch.tensor(
        value, dtype=torch.float64
    )


def contraction(
    p_end: Tensor,
    length: Tensor,
    trailing_masks: Tensor,
    forwards: Tensor,
    *,
    cost_truncation: float,
    cost_position: float,
    shortest: int = 1,
) -> Tensor:
    """Most trailing masks m with c_tr P(E > W - m) < c_pos T m. [batch].

    Only positions that are all masked and at the end of the window may go, and at least
    ``shortest`` stay. p_end [batch, width + 1] in natural places.
    """
    width = p_end.shape[1] - 1
    survival = p_end.flip(1).cumsum(1).flip(1)  # column j: P(E > j)
    m = torch.arange(width + 1, device=p_end.device)
    kept = (length[:, None] - m).clamp(min=0)
    good = cost_truncation * survival.gather(1, kept) < cost_position * forwards[:, None] * m
    room = torch.minimum(trailing_masks, length - shortest)[:, None]
    return torch.where(good & (m <= room), m, 0).max(1).values


def poisson_extension(instability: Tensor, smallest: float, largest: float) -> Tensor:
    """The mode of Poisson(mu_min + (mu_max - mu_min)(1 - I)), I the mean instability in [0, 1].

    A stand-in for DyStruct (arXiv 2605.09820), whose exact map is not public: a stable window
    grows by more.
    """
    return (smallest + (largest - smallest) * (1 - instability.clamp(0, 1))).floor().long()
