"""Rows of logits for the decode statistics, ordinary and hostile, and their naive reference."""

import torch
from torch import Tensor

from tests.kernels.supports import generator

LOW = float("-inf")


def rows_of_logits(vocabulary: int = 3000, seed: int = 0) -> Tensor:
    x = 3 * torch.randn(9, vocabulary, generator=generator(seed))
    x[1, [5, 700, 2500]] = 40.0  # a tie across chunks: index 5 wins
    x[2, 100:] = LOW  # banned tokens
    x[3, 1:] = LOW  # one token left
    x[4] = 0.25  # uniform
    x[5] += 1e4  # far from zero
    x[6, 17] = 300.0  # certain
    x[7, :1024] = LOW  # a first chunk without anything
    return x


def naive(x: Tensor, eos: list[int], temperature: float) -> dict[str, Tensor]:
    """Softmax and logs in float64."""
    l = x.double() / temperature
    p = l.softmax(-1)
    top = p.topk(2, -1).values
    entropy = torch.where(p > 0, -p * p.clamp_min(1e-320).log(), 0.0).sum(-1)
    first = (l == l.max(-1, keepdim=True).values).to(torch.int8).argmax(-1)
    return {
        "argmax": first, "top1": top[:, 0], "margin": top[:, 0] - top[:, 1], "entropy": entropy,
        "eos_mass": p[:, eos].sum(-1), "logsumexp": l.logsumexp(-1),
    }  # fmt: skip
