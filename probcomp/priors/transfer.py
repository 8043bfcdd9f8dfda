r"""Exact sums over lattices that are narrow in one direction, by a transfer matrix.

A row of ``W`` sites has ``2^W`` states; the vertical couplings between two rows form the matrix

.. math:: K(s, s') = \prod_{j=1}^{W} e^{J s_j s'_j},

a Kronecker product, applied here as two small matrix products. Everything runs in float64. Sites
of a row are the digits of its state, the first site the most significant.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_WIDTH = 12  # 4096 states a row: milliseconds for a hundred rows


@dataclass(frozen=True)
class Strip:
    """A lattice of ``rows`` by ``W`` with all quantities of one forward pass.

    Attributes:
        log_rows: Log weight of each state of each row on its own, ``[*batch, rows, 2^W]``.
        above: Log weight that the rows above give each state, ``[*batch, rows, 2^W]``.
        kernels: ``K`` for the first and the second half of a row.
        log_z: Log of the sum over all supports, ``[*batch]``.
    """

    log_rows: Tensor
    above: Tensor
    kernels: tuple[Tensor, Tensor]
    log_z: Tensor


def states(width: int, like: Tensor) -> Tensor:
    """All supports of a row, ``[2^width, width]``."""
    number = torch.arange(2**width, device=like.device).unsqueeze(-1)
    digit = torch.arange(width - 1, -1, -1, device=like.device)
    return ((number >> digit) & 1).to(like.dtype)


def forward(site: Tensor, coupling: Tensor) -> Strip:
    r"""Sum ``exp(<site, s> + J sum_neighbours s s')`` over all supports, row by row.

    Args:
        site: Field of each site in nats, float64, ``[*batch, rows, W]``.
        coupling: ``J`` in nats, float64, ``[*batch]`` or a scalar.
    """
    width = site.shape[-1]
    bits = states(width, site)
    coupling = coupling.expand(site.shape[:-2])
    neighbours = (bits[:, 1:] * bits[:, :-1]).sum(-1)
    log_rows = site @ bits.mT + coupling[..., None, None] * neighbours
    kernels = (_kernel(coupling, width // 2, site), _kernel(coupling, width - width // 2, site))
    message = torch.zeros_like(log_rows[..., 0, :])
    above, total = [], torch.zeros_like(log_rows[..., 0, 0])
    for row in range(site.shape[-2]):
        above.append(message)
        weight = log_rows[..., row, :] + message
        scale = weight.detach().amax(-1, keepdim=True)
        weight = (weight - scale).exp()
        total = total + scale.squeeze(-1)
        message = apply_kernels(kernels, weight).log()
    return Strip(log_rows, torch.stack(above, -2), kernels, total + weight.sum(-1).log())


def apply_kernels(kernels: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """``K weight`` for weights ``[*batch, 2^W]``."""
    first, second = kernels
    square = weight.unflatten(-1, (first.shape[-1], second.shape[-1]))
    return (first @ square @ second).flatten(-2)


def draw(strip: Strip, coupling: Tensor, generator: torch.Generator | None) -> Tensor:
    """One exact draw for each entry of the batch, boolean ``[*batch, rows, W]``, last row first."""
    width = (strip.log_rows.shape[-1] - 1).bit_length()
    bits = states(width, strip.log_rows)
    coupling = coupling.expand(strip.log_z.shape)
    below = torch.zeros_like(strip.log_rows[..., 0, :])
    rows = []
    for row in range(strip.log_rows.shape[-2] - 1, -1, -1):
        weight = strip.log_rows[..., row, :] + strip.above[..., row, :] + below
        probability = weight.softmax(-1)
        flat = probability.reshape(-1, probability.shape[-1])
        index = torch.multinomial(flat, 1, generator=generator).view(probability.shape[:-1])
        chosen = bits[index]
        rows.append(chosen.bool())
        below = coupling[..., None] * (chosen @ bits.mT)
    return torch.stack(rows[::-1], -2)


def _kernel(coupling: Tensor, width: int, like: Tensor) -> Tensor:
    bits = states(width, like)
    return (coupling[..., None, None] * (bits @ bits.mT)).exp()
