r"""Exactly k of N: elementary symmetric sums by divide and conquer on tilted probabilities.

A shift of all log-odds changes nothing but a constant, so evidence is tilted by :math:`\mu` until
the expected count is k. The distribution of the count then peaks at k: it can be built in linear
domain, by products of positive numbers only, with full relative accuracy. Leaves are merged in
pairs upwards; downwards each node learns how probable it is that the rest makes up the count,

.. math:: \psi_i = \mu + \ln P(K_{-i} = k - 1) - \ln P(K_{-i} = k),

with :math:`K_{-i}` the count without support i. Cost is about ``N^2`` multiplications.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import log_binomial, softplus
from probcomp.priors.counting import ExactK, NofM

CERTAIN = 100.0  # log-odds of a support that the count alone decides
SMALL = 64  # up to here a tilt that makes the best set the most probable one suffices
STRIDE = 64  # coefficients of a factor that are multiplied at once
ROOM = 2**24  # doubles that one such product may take


@solve.register
def solve_exact_k(prior: ExactK, evidence: Tensor, options: Options) -> Marginals:
    """Exact, in float64 whatever the evidence's dtype."""
    prior.check_size(evidence.shape[-1])
    extrinsic, log_z = fixed_count(evidence.double(), prior.k)
    return finish(evidence, extrinsic.to(evidence.dtype), log_z.to(evidence.dtype))


@solve.register
def solve_n_of_m(prior: NofM, evidence: Tensor, options: Options) -> Marginals:
    """Each group on its own; exact."""
    groups = evidence.unflatten(-1, (prior.groups(evidence.shape[-1]), prior.m))
    extrinsic, log_z = fixed_count(groups.double(), prior.n)
    extrinsic = extrinsic.flatten(-2).to(evidence.dtype)
    return finish(evidence, extrinsic, log_z.sum(-1).to(evidence.dtype))


def fixed_count(evidence: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``(extrinsic [*batch, N], log_z [*batch])`` given that exactly ``k`` of N are on."""
    size = evidence.shape[-1]
    if k in (0, size):
        sign = CERTAIN if k else -CERTAIN
        return torch.full_like(evidence, sign), evidence.sum(-1) * bool(k)
    rows = evidence.reshape(-1, size)
    padded = 2 ** math.ceil(math.log2(size))
    at_once = max(1, ROOM // (2 * padded * min(padded, STRIDE)))
    parts = [_fixed_count(part, k) for part in rows.split(at_once)]
    extrinsic, log_z = (torch.cat(values) for values in zip(*parts))
    return extrinsic.view(evidence.shape), log_z.view(evidence.shape[:-1])


def _fixed_count(evidence: Tensor, k: int) -> tuple[Tensor, Tensor]:
    size = evidence.shape[-1]
    tilt = _tilt(evidence.detach(), k)
    tilted = evidence + tilt
    on = torch.sigmoid(tilted)
    leaves = torch.stack([torch.sigmoid(-tilted), on], -1)
    missing = 2 ** math.ceil(math.log2(size)) - size
    if missing:  # leaves that are never on
        never = leaves.new_tensor([1.0, 0.0]).expand(*leaves.shape[:-2], missing, 2)
        leaves = torch.cat([leaves, never], -2)
    counts = [leaves]
    while counts[-1].shape[-2] > 1:
        counts.append(_multiply(counts[-1][..., ::2, :], counts[-1][..., 1::2, :]))
    log_peak = counts[-1][..., 0, k].log()
    constant = softplus(tilted).sum(-1) - k * tilt.squeeze(-1) - log_binomial(size, k)

    rest = torch.zeros_like(counts[-1])
    rest[..., k] = 1
    for children in reversed(counts[:-1]):
        left, right = children[..., ::2, :], children[..., 1::2, :]
        pair = [_correlate(rest, right), _correlate(rest, left)]
        rest = torch.stack(pair, -2).flatten(-3, -2)
    rest = rest[..., :size, :].clamp_min(torch.finfo(rest.dtype).tiny).log()
    return tilt + rest[..., 1] - rest[..., 0], log_peak + constant


def _tilt(evidence: Tensor, k: int) -> Tensor:
    """A shift ``[*batch, 1]`` after which the count ``k`` is probable."""
    ordered = evidence.sort(-1, descending=True).values
    middle = -0.5 * (ordered[..., k - 1 : k] + ordered[..., k : k + 1])
    size = evidence.shape[-1]
    if size <= SMALL:
        return middle
    reach = math.log(size) + 1
    low, high = -ordered[..., :1] - reach, -ordered[..., -1:] + reach
    for _ in range(50):  # to 1e-13 of a range of 100 nats
        middle = 0.5 * (low + high)
        many = torch.sigmoid(evidence + middle).sum(-1, keepdim=True) > k
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    return middle


def _multiply(one: Tensor, two: Tensor) -> Tensor:
    """Product of polynomials, coefficients in the last dimension, by sums of positive terms."""
    width = two.shape[-1]
    total = one.new_zeros(())
    if width <= STRIDE // 2 + 1:
        for power in range(width):
            total = total + pad(one, (power, width - 1 - power)) * two[..., power : power + 1]
        return total
    for first in range(0, width, STRIDE):
        factor = two[..., first : first + STRIDE].flip(-1)
        reach = factor.shape[-1]
        windows = pad(one, (reach - 1, reach - 1)).unfold(-1, reach, 1)
        part = (windows @ factor.unsqueeze(-1)).squeeze(-1)
        total = total + pad(part, (first, width - first - reach))
    return total


def _correlate(rest: Tensor, sibling: Tensor) -> Tensor:
    """``out[j] = sum_i sibling[i] rest[i + j]`` for the counts ``j`` that a child can have."""
    width = sibling.shape[-1]
    return _multiply(rest, sibling.flip(-1))[..., width - 1 : 2 * width - 1]
