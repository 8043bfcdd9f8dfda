r"""Taking tokens back: posterior odds of a committed token given everything else.

With q_i = p(x_i | all but i) and q*_i = max_v p(v | all but i), re-deciding a token gains
c_err (q*_i - q_i) in expectation, so it is revoked when q*_i - q_i exceeds a margin. A token
that is still the leave-one-out argmax is never revoked. Guards that make decoding end: a position
is revoked at most R times, and a forward revokes fewer than it (or its predecessor) commits, so
(revocations left, masks left) falls lexicographically.
"""

import torch
from torch import Tensor

from probcomp.decoding.schedule import quota


def smooth(total: Tensor, visits: Tensor, yes: float = 1.0, no: float = 1.0) -> Tensor:
    """q averaged over visits with a Beta(yes, no) prior: (yes + sum q) / (yes + no + n)."""
    return (yes + total) / (yes + no + visits)


def by_odds(
    own: Tensor, best: Tensor, candidates: Tensor, taken: Tensor, *, margin: float, most: int
) -> Tensor:
    """Positions to revoke, [batch, positions]: best - own above ``margin``, at most ``most`` times.

    Args:
        own: q_i of the committed tokens, [batch, positions].
        best: q*_i, the largest leave-one-out probability.
        candidates: positions that were verified.
        taken: how often each was revoked before.
    """
    return candidates & (taken < most) & (best - own > margin)


def fewest(revoke: Tensor, score: Tensor, cap: Tensor) -> Tensor:
    """At most ``cap`` [batch] of ``revoke``, lowest ``score`` first."""
    picked = quota(-score, revoke, cap)
    return picked & revoke & (cap > 0)[:, None]


def wino(
    shadow: Tensor, visible: Tensor, below: float, accepted: Tensor, previous: Tensor
) -> Tensor:
    """WINO (arXiv 2507.18578): visible tokens whose shadow confidence is under ``below``.

    At most (accepted in the previous forward - 1) of them, the least confident first, and none in
    a forward that accepted one token: that is what guarantees progress.
    """
    cap = torch.where(accepted > 1, previous - 1, 0).clamp(min=0)
    return fewest(visible & (shadow < below), shadow, cap)
