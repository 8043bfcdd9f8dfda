r"""Committing tokens whose dependence was measured: every pair of a set counts.

    cost(S) = sum_{i<j in S} m_ij <= gamma,     m_ij = min(H_i, H_j) kappa(j - i),

with kappa(d) the share of the smaller entropy that seeing one token takes from another d places
away, measured on the model itself (`probcomp.decoding.calibrating.coupling`). `coupled` charges
neighbours of a set only, which is right when dependence falls with distance. In structured text
it does not (the next item of a record is nearer to this item than to the comma between them), and
there all pairs are charged.

The largest set is a quadratic knapsack; this takes the cheapest position again and again, and
among equally cheap ones the one that tells most about the rest: what it leaves is less dependent,
so later forwards take more at a time. (In a chain it halves what is left, where the surest token
first would creep along it.) Pairs do not see higher-order ties, so the sum is no bound (three
bits whose sum is even have none).
"""

from functools import lru_cache

import torch
from torch import Tensor

SLACK = 0.1  # of the budget: costs closer than this are told apart by chance


def profile_coupling(entropy: Tensor, profile: tuple[float, ...]) -> Tensor:
    """m_ij from a profile over gaps 1, 2, ...; farther pairs have none. [batch, width, width]."""
    width = entropy.shape[1]
    place = torch.arange(width, device=entropy.device)
    gap = (place[None, :] - place[:, None]).abs()
    table = entropy.new_zeros(max(width, len(profile) + 1))
    table[1 : len(profile) + 1] = entropy.new_tensor(profile)
    least = torch.minimum(entropy[:, :, None], entropy[:, None, :])
    return least * table[gap]


@lru_cache(maxsize=16)
def _takes_over(profile: tuple[float, ...]) -> Tensor:
    """Whether a token takes over the tie of two others, by where they lie from it.

    [2 L + 1, 2 L + 1] over the offsets -L .. L of both, L the longest gap of the profile: true
    where it is tied to both at least as strongly as they are to one another.
    """
    offset = torch.arange(-len(profile), len(profile) + 1)
    table = torch.zeros(2 * len(profile) + 1)
    table[1 : len(profile) + 1] = torch.tensor(profile)
    kappa, tie = table[offset.abs()], table[(offset[:, None] - offset).abs()]
    return (torch.minimum(kappa[:, None], kappa[None, :]) >= tie) & (tie > 0)


def unmediated(coupling: Tensor, profile: tuple[float, ...], visible: Tensor) -> Tensor:
    """The coupling without ties that a visible token has taken over. [batch, width, width].

    By the data-processing inequality i and j of a chain through k have I(i; j) <= min(I(i; k),
    I(k; j)) and nothing to say to each other once k is known; ARACNE (Margolin et al. 2006)
    drops an edge by the same inequality. visible [batch, width].
    """
    reach, width = len(profile), visible.shape[1]
    over = _takes_over(profile).to(coupling.device)
    cut = torch.zeros_like(coupling, dtype=torch.bool)
    for k in visible.any(0).nonzero()[:, 0].tolist():
        low, high = max(k - reach, 0), min(k + reach + 1, width)
        near = slice(low - k + reach, high - k + reach)
        cut[:, low:high, low:high] |= visible[:, k, None, None] & over[near, near]
    return torch.where(cut, 0.0, coupling)


def end_coupling(eos_mass: Tensor) -> Tensor:
    """I([E <= i]; [E <= j]) in nats of the nested events whose chances are the EOS masses.

    Exact where those are a CDF: P(both) = min(e_i, e_j), P(neither) = 1 - max(e_i, e_j). What a
    profile measured behind a known end does not hold. eos_mass [batch, width] in [0, 1].
    """
    e = eos_mass.double()
    low = torch.minimum(e[:, :, None], e[:, None, :])
    high = torch.maximum(e[:, :, None], e[:, None, :])

    def joint(p: Tensor) -> Tensor:
        return -torch.special.entr(p.clamp(min=0.0))

    single = joint(e) + joint(1 - e)
    both = joint(low) + joint(high - low) + joint(1 - high)
    return (both - single[:, :, None] - single[:, None, :]).clamp(min=0.0)


def pairwise(coupling: Tensor, entropy: Tensor, eligible: Tensor, gamma: float) -> Tensor:
    """Positions to commit, [batch, width]: by least added cost, then by what they tell.

    Args:
        coupling: m_ij, nats, symmetric, [batch, width, width].
        entropy: H_i, nats, [batch, width]; breaks ties in what they tell, the surest first.
        eligible: what may be committed.
        gamma: budget of a forward, nats. The first position is always within it.
    """
    batch, width = eligible.shape
    chosen = torch.zeros_like(eligible)
    added = torch.zeros_like(entropy)
    spent = entropy.new_zeros(batch)
    rows = torch.arange(batch, device=entropy.device)
    told = (coupling * eligible[:, None]).sum(2)
    surest = entropy.argsort(dim=1, stable=True)
    by_told = (-told).gather(1, surest).argsort(dim=1, stable=True)
    order = surest.gather(1, by_told).argsort(dim=1)
    for step in range(width):
        cost = torch.where(eligible & ~chosen, added, torch.inf)
        least = cost.min(1, keepdim=True).values
        # What costs next to nothing more and still fits is as good as the cheapest.
        near = torch.minimum(least + SLACK * gamma, (gamma - spent)[:, None]).maximum(least)
        best = torch.where(cost <= near, order, width).argmin(1)
        price = cost[rows, best]
        take = torch.isfinite(price) & ((spent + price <= gamma) | (step == 0))
        if not bool(take.any()):
            break
        chosen[rows, best] |= take
        spent = torch.where(take, spent + price, spent)
        added = torch.where(take[:, None], added + coupling[rows, best], added)
    return chosen & eligible
