r"""How strongly tokens depend on each other, measured on the model: show one token, look again.

The entropy that position j loses when the truth at i is shown is, in the mean over answers,
I(X_i; X_j) of a model that is right about its own uncertainty. The profile is

    kappa(d) = sum drop / sum min(H_i, H_j)   over pairs d apart,

a share in [0, 1] of the bound min(H_i, H_j) on that information. Nothing but the end is visible:
tokens that are far apart are drawn together early or never, and what a visible token takes over of
a tie is worked out by `probcomp.decoding.pairwise.unmediated`. (Random masks show far pairs with
their mediators between them, as all but independent.)
"""

import random
from collections.abc import Sequence

import torch

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.calibrating.states import Pair, observe

SHRINK = 2.0  # nats of pairs without information, for gaps that were hardly met


def fit_coupling(
    adapter: Adapter,
    pairs: Sequence[Pair],
    longest: int,
    seed: int,
    *,
    repeats: int = 4,
    gaps: int = 32,
) -> tuple[float, ...]:
    """kappa at gaps 1..``gaps`` or the longest that was met; trailing zeros are dropped.

    The end is visible and known to be the first, as it is when the end is drawn first: else what
    a token says about the end would count as a tie to every separator.
    """
    rng = random.Random(seed)
    chosen, lengths, before, after, shown = [], [], [], [], []
    for pair in pairs:
        n = len(pair[1])
        if not 2 <= n < longest:
            continue
        where = torch.arange(n + 1) < n
        for position in rng.sample(range(n), min(repeats, n)):
            less = where.clone()
            less[position] = False
            chosen.append(pair)
            lengths.append(n + 1)
            before.append(where)
            after.append(less)
            shown.append(position)
    if not chosen:
        return ()
    first = observe(adapter, chosen, lengths, before, ended=True)
    second = observe(adapter, chosen, lengths, after, ended=True)
    rows = torch.arange(len(chosen))
    at = torch.tensor(shown)
    h, later = first.features.entropy.double(), second.features.entropy.double()
    place = torch.arange(h.shape[1])
    gap = (place - at[:, None]).abs()
    use = second.masked & (gap <= gaps)
    drop = torch.where(use, h - later, 0.0)
    least = torch.where(use, torch.minimum(h, h[rows, at][:, None]), 0.0)
    size = gaps + 1
    total = torch.zeros(size, dtype=torch.float64).index_add(
        0, gap.clamp(max=gaps).flatten(), drop.flatten()
    )
    bound = torch.zeros(size, dtype=torch.float64).index_add(
        0, gap.clamp(max=gaps).flatten(), least.flatten()
    )
    profile = (total / (bound + SHRINK)).clamp(0.0, 1.0)[1:].tolist()
    while profile and profile[-1] == 0.0:
        profile.pop()
    return tuple(round(value, 5) for value in profile)
