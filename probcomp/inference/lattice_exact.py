"""Exact marginals of lattices with at most 12 sites across, by the transfer matrix."""

import torch
from torch import Tensor

from probcomp.inference.solver import Marginals, Options, finish
from probcomp.priors import transfer
from probcomp.priors.base import as_tensor
from probcomp.priors.lattice import Lattice

ROWS_AT_ONCE = 64  # bounds the memory of the vertical pairs: 64 x 12 x 4096 doubles


def solve_exact(prior: Lattice, evidence: Tensor, options: Options) -> Marginals:
    """Forward and backward over the longer side, in float64 whatever the evidence's dtype."""
    rows, cols = evidence.shape[-2:]
    turned = rows < cols
    double = evidence.double()
    field = prior.site_field(double).expand(double.shape)
    coupling = as_tensor(prior.coupling, double)
    site = field + double
    strip = transfer.forward(site.mT if turned else site, coupling)
    below = _backward(strip)
    joint = (strip.log_rows + strip.above + below).softmax(-1)  # [*batch, rows, 2^W]
    bits = transfer.states(min(rows, cols), double)
    tiny = torch.finfo(torch.float64).tiny
    log_odds = (joint @ bits).clamp_min(tiny).log() - (joint @ (1 - bits)).clamp_min(tiny).log()
    across = joint @ (bits[:, 1:] * bits[:, :-1])
    down = _down_pairs(strip, below, coupling)
    if turned:
        log_odds, across, down = log_odds.mT, down.mT, across.mT
    log_z = strip.log_z - prior.log_normaliser(rows, cols)
    kind = evidence.dtype
    extrinsic = (log_odds - double).to(kind)
    return finish(evidence, extrinsic, log_z.to(kind), pair=(across.to(kind), down.to(kind)))


def _backward(strip: transfer.Strip) -> Tensor:
    """Log weight that the rows below give each state, ``[*batch, rows, 2^W]``."""
    message = torch.zeros_like(strip.above[..., 0, :])
    below = [message]
    for row in range(strip.log_rows.shape[-2] - 1, 0, -1):
        weight = strip.log_rows[..., row, :] + message
        weight = (weight - weight.detach().amax(-1, keepdim=True)).exp()
        message = transfer.apply_kernels(strip.kernels, weight).log()
        below.append(message)
    return torch.stack(below[::-1], -2)


def _down_pairs(strip: transfer.Strip, below: Tensor, coupling: Tensor) -> Tensor:
    """``P(s_rj = 1, s_{r+1,j} = 1)``, ``[*batch, rows - 1, W]``."""
    upper = strip.log_rows[..., :-1, :] + strip.above[..., :-1, :]
    lower = strip.log_rows[..., 1:, :] + below[..., 1:, :]
    parts = [
        _pairs_of(strip, up, low)
        for up, low in zip(upper.split(ROWS_AT_ONCE, -2), lower.split(ROWS_AT_ONCE, -2))
    ]
    return torch.cat(parts, -2)


def _pairs_of(strip: transfer.Strip, upper: Tensor, lower: Tensor) -> Tensor:
    first, second = (kernel.unsqueeze(-3) for kernel in strip.kernels)
    sizes = (first.shape[-1], second.shape[-1])
    up = (upper - upper.detach().amax(-1, keepdim=True)).exp().unflatten(-1, sizes)
    low = (lower - lower.detach().amax(-1, keepdim=True)).exp().unflatten(-1, sizes)
    left = first @ up  # [*batch, rows, 2^a, 2^b]: the first half of the row is summed
    both = left @ second
    total = (both * low).sum((-2, -1))[..., None]
    right = up @ second
    pairs = []
    # Keep only the terms of K in which digit j is on in both rows.
    for kernel, one_side in ((first, right), (second, left)):
        bits = transfer.states((kernel.shape[-1] - 1).bit_length(), upper)
        for j in range(bits.shape[-1]):
            on = bits[:, j]
            chosen = on[:, None] * kernel * on
            part = chosen @ one_side if kernel is first else one_side @ chosen
            pairs.append((part * low).sum((-2, -1)))
    if not pairs:
        return total[..., :0]
    return torch.stack(pairs, -1) / total
