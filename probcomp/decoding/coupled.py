r"""Committing tokens that depend on each other: the largest set within a coupling budget.

    cost(S) = sum_{i in S} a_i + sum_{consecutive i < j in S} m_ij <= gamma,  maximise |S|.

For a first-order (Markov) dependence with a = 0 and m_ij = I(X_i; X_j | visible) the cost *is*
the total correlation KL(p(x_S) || prod p_i). Pairwise information cannot see higher-order ties
(three bits whose sum is even have none), so on real text this rule is used inside the budget.

Exact by dynamic programming: f[j, k] = a_j + min_{i<j} (f[i, k-1] + m_ij).
"""

import torch
from torch import Tensor


def decay_coupling(entropy: Tensor, length: float) -> Tensor:
    """m_ij = min(H_i, H_j) exp(-(j - i - 1) / length), [batch, width, width].

    min(H_i, H_j) bounds the mutual information; the decay is a guess to be swept per model.
    """
    place = torch.arange(entropy.shape[1], device=entropy.device)
    gap = (place[None, :] - place[:, None]).abs().clamp(min=1)
    least = torch.minimum(entropy[:, :, None], entropy[:, None, :])
    return least * torch.exp(-(gap - 1) / length).to(entropy.dtype)


def markov_cut(coupling: Tensor, masked: Tensor) -> Tensor:
    """Coupling set to 0 where a visible token lies between: it separates a Markov chain."""
    visible = (~masked).long().cumsum(1)
    between = visible[:, None, :] - visible[:, :, None]  # visible in (i, j] for i < j
    return coupling.masked_fill(between.abs() > 0, 0.0)


def coupled(
    coupling: Tensor,
    eligible: Tensor,
    gamma: float | Tensor,
    own: Tensor | None = None,
    most: int = 32,
) -> Tensor:
    """The largest eligible set of cost within ``gamma``, the cheapest of that size. [batch, width].

    At least one position is committed (the one of least own cost, lowest first) even when it
    alone is over the budget. ``most`` caps the size. O(width^2 most) per row.
    """
    batch, width = eligible.shape
    most = min(most, width)
    own_cost = torch.zeros_like(coupling[:, 0]) if own is None else own
    infinite = torch.finfo(coupling.dtype).max / 4
    first = own_cost.masked_fill(~eligible, infinite)
    before = torch.ones(width, width, dtype=torch.bool, device=coupling.device).triu(1)
    pair = coupling.masked_fill(~before, infinite)
    table, back = [first], []
    for _ in range(1, most):
        value, previous = (table[-1][:, :, None] + pair).min(1)
        table.append((value + first).clamp(max=infinite))
        back.append(previous)
    best, last = torch.stack(table, dim=1).min(2)  # [batch, most]
    fits = best <= gamma
    fits[:, 0] = True
    size = torch.where(fits, torch.arange(most, device=best.device), 0).max(1).values
    chosen = torch.zeros_like(eligible)
    place = last.gather(1, size[:, None])[:, 0]
    rows = torch.arange(batch, device=best.device)
    for k in range(most - 1, -1, -1):
        inside = k <= size
        chosen[rows, place] |= inside & eligible[rows, place]
        if k > 0:
            place = torch.where(inside, back[k - 1][rows, place], place)
    return chosen
