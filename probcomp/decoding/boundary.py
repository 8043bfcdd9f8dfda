r"""What speaks for a block boundary, and where the next block should end.

    r_i = w0 + w1 logit(delta_i) + w2 (H_{i+1} - H_i) - w3 log kappa_{i,i+1} + w4 [delimiter at i]

with the delimiter mass delta_i, the entropy H_i (nats) and the coupling kappa across the gap.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.decoding.length import NEG

CLIP = 12.0


@dataclass(frozen=True)
class BoundaryWeights:
    """Weights of the boundary evidence, in nats per unit of each feature."""

    constant: float = -1.0
    delimiter: float = 1.0
    entropy_step: float = 0.5
    coupling: float = 0.5
    committed: float = 2.0


def boundary_evidence(
    delimiter_mass: Tensor,
    entropy: Tensor,
    committed_delimiter: Tensor,
    length: Tensor,
    weights: BoundaryWeights,
    coupling: Tensor | None = None,
) -> Tensor:
    """r_i (nats), [batch, width]; `NEG` outside each row's window. Coupling [batch, width]."""
    width = entropy.shape[1]
    mass = delimiter_mass.clamp(1e-6, 1 - 1e-6)
    logit = (mass.log() - torch.log1p(-mass)).clamp(-CLIP, CLIP)
    step = torch.nn.functional.pad(entropy[:, 1:] - entropy[:, :-1], (0, 1))
    place = torch.arange(width, device=entropy.device)
    step = torch.where(place < length[:, None] - 1, step, 0.0)
    r = weights.constant + weights.delimiter * logit + weights.entropy_step * step
    r = r + weights.committed * committed_delimiter
    if coupling is not None:
        r = r - weights.coupling * coupling.clamp(min=1e-6).log()
    return torch.where(place < length[:, None], r, NEG)


def next_block(
    p_first: Tensor, threshold: float, shortest: int, longest: int, available: Tensor
) -> Tensor:
    """Length of the next block per row, [batch]: the mode if it is sure, else the median.

    The mode is accepted when its posterior mass reaches ``threshold``; otherwise the posterior
    median of the next boundary is clipped to [shortest, longest]. Where most of the mass says
    that the text ends before another boundary, the median is the rest of the window.
    """
    mass, mode = p_first.max(1)
    below = p_first.cumsum(1) < 0.5
    median = below.sum(1) + 1
    median = torch.where(below[:, -1], available, median.clamp(shortest, longest))
    chosen = torch.where(mass >= threshold, mode + 1, median)
    return torch.minimum(chosen.clamp(min=1), available)
