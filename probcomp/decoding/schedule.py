r"""How many tokens may be committed in one forward: rules that return the set to commit.

Every rule takes scores and the eligible positions, both [batch, width], and returns a boolean
[batch, width]. Each commits at least one position of a row that has one, and breaks ties to the
lowest position. All are exact for their criterion:

``budget``     longest prefix in error with sum eps <= budget: the largest such set
``entropy``    longest prefix in entropy H with the sum over *earlier* H <= gamma (EB-Sampler,
               arXiv 2505.24857): sum H - max H <= gamma bounds KL(p(x_S) || prod p_i)
``threshold``  every position with confidence above tau, else the best (Fast-dLLM, 2505.22618)
``factor``     the n most confident, n largest with (n + 1)(1 - c_(n)) < f (same source)
``quota``      the n most confident (LLaDA, 2502.09992)
"""

from collections.abc import Callable

import torch
from torch import Tensor


def budget(error: Tensor, eligible: Tensor, allowance: Tensor) -> Tensor:
    """Sum of expected errors within ``allowance`` [batch]."""
    return _prefix(error, eligible, lambda value: value.cumsum(1) <= allowance[:, None])


def entropy(value: Tensor, eligible: Tensor, gamma: float | Tensor) -> Tensor:
    """Sum of the entropies (nats) of all but the largest within ``gamma``."""

    def keep(ranked: Tensor) -> Tensor:
        earlier = torch.nn.functional.pad(ranked.cumsum(1)[:, :-1], (1, 0))
        return earlier <= gamma

    return _prefix(value, eligible, keep)


def threshold(confidence: Tensor, eligible: Tensor, tau: float) -> Tensor:
    """Confidence above ``tau``, else the most confident."""
    return (eligible & (confidence > tau)) | _only_best(confidence, eligible, tau)


def _only_best(confidence: Tensor, eligible: Tensor, tau: float) -> Tensor:
    none = ~(eligible & (confidence > tau)).any(1, keepdim=True)
    return quota(confidence, eligible, torch.ones_like(eligible[:, 0], dtype=torch.long)) & none


def factor(confidence: Tensor, eligible: Tensor, f: float) -> Tensor:
    """The largest n with (n + 1)(1 - c_(n)) < f, as sets of the n most confident."""

    def keep(ranked: Tensor) -> Tensor:
        n = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        good = (n + 1) * ranked < f  # ranked holds 1 - c, rising
        # The largest n that passes, not the first failure: keep everything up to it.
        return good.flip(1).int().cummax(1).values.flip(1).bool()

    return _prefix(1.0 - confidence, eligible, keep)


def quota(confidence: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """The ``count`` [batch] most confident positions, at least one."""

    def keep(ranked: Tensor) -> Tensor:
        return torch.arange(ranked.shape[1], device=ranked.device) < count[:, None]

    return _prefix(-confidence, eligible, keep)


def _prefix(cost: Tensor, eligible: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
    """Sort by cost, keep a prefix (at least one), scatter back to positions."""
    # Ineligible positions come last and are past every budget.
    order = cost.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)
    allowed = eligible.gather(1, order)
    ranked = cost.gather(1, order).masked_fill(~allowed, torch.inf)
    kept = keep(ranked)
    kept[:, 0] = True
    return torch.zeros_like(eligible).scatter(1, order, kept & allowed)


def llada_quota(masks: Tensor, steps: int) -> Tensor:
    """masks // steps each step, plus one in the first masks % steps. [batch, steps]."""
    step = torch.arange(steps, device=masks.device)
    return masks[:, None] // steps + (step < (masks % steps)[:, None])
