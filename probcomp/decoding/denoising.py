r"""Chances without what is likely to be noise: a network that means "never" is a little off.

    s(p) = 1 / (1 + N(p; 0, noise))

is the chance that an outcome is possible at all, even beforehand, with any chance in (0, 1) alike
if it is, and N(.; 0, noise) the normal density of what shows if it is not: a slab and a spike. An
end is scaled by s. A token is scaled by `MEANT` + (1 - `MEANT`) s, since a network also gives small
chances to what is true when it is wrong about a text: a true token loses log(1 / `MEANT`) at most.
Sampling needs this where picking the likeliest does not: over a vocabulary, and over the tokens of
a text, chances that should be zero add up.
"""

import math

import torch
from torch import Tensor

MEANT = 0.1  # of the small chances, how many are meant


def slab_share(p: Tensor, noise: float) -> Tensor:
    """Chance that an outcome which shows p is possible, elementwise; ``noise`` above 0."""
    spike = torch.exp(-0.5 * (p / noise).square()) / (noise * math.sqrt(2 * math.pi))
    return 1 / (1 + spike)


def denoised(logits: Tensor, noise: float, ends: Tensor) -> Tensor:
    """Logits [..., vocabulary] with the noise taken from every token but the ``ends`` (ids).

    Both the mass of the ends and that of all other tokens stay: where a text may end is read by
    `probcomp.decoding.end_model`, which has a noise of its own.
    """
    if noise == 0.0:
        return logits
    ends = ends.to(logits.device)
    share = MEANT + (1 - MEANT) * slab_share(logits.softmax(-1), noise)
    cleaned = logits + share.index_fill(-1, ends, 1.0).log()
    mass, left = (x.index_fill(-1, ends, -torch.inf).logsumexp(-1, True) for x in (logits, cleaned))
    # Where nothing but an end is possible there is no mass to keep.
    back = torch.where(mass > -torch.inf, mass - left, 0.0)
    return (cleaned + back).index_copy(-1, ends, logits[..., ends])
