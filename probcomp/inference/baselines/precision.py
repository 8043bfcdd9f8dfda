"""Bits that a weight needs, from its posterior variance.

Louizos, Ullrich and Welling (2017), section 4.1: a value need not be stored more finely than its
posterior deviates. In the form of the authors' code: the unit round-off of ``t`` significand bits
is ``2^-t``, and a weight of variance ``v`` gets as many bits as round-offs lie above ``2 v``; a
layer's bits are the mean over its weights, rounded up.
"""

import math

import torch
from torch import Tensor

SIGNIFICAND = 23


def significand_bits(variance: Tensor) -> int:
    r"""``ceil(mean_n #{t in 1..23 : 2 v_n < 2^-t})``; 23 at most.

    Args:
        variance: Posterior variances of the weights that stay, any shape; none give 0.
    """
    if not variance.numel():
        return 0
    # 2 v < 2^-t for t < -log2(2 v).
    below = torch.ceil(-torch.log2(2 * variance.double().clamp_min(1e-300))) - 1
    return math.ceil(float(below.clamp(0, SIGNIFICAND).mean()))


def exponent_bits(largest: float) -> int:
    """``ceil(log2(log2(m + 1) + 1))`` for a largest magnitude ``m``; at least 1."""
    return max(1, math.ceil(math.log2(math.log2(largest + 1) + 1)))


def layer_bits(values: Tensor, variance: Tensor, mask: Tensor) -> dict[str, int]:
    """Significand, exponent, and their sum with the sign, for the weights that stay."""
    kept = values[mask]
    significand = significand_bits(variance[mask])
    exponent = exponent_bits(float(kept.abs().max())) if kept.numel() else 0
    return {
        "significand": significand,
        "exponent": exponent,
        "total": 1 + significand + exponent if kept.numel() else 0,
    }


def round_to_bits(values: Tensor, significand: int) -> Tensor:
    """Values on the grid of spacing ``2^-t``, as the authors' code rounds them."""
    step = 2.0**-significand
    return torch.floor(values / step + 0.5) * step
