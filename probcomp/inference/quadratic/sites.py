r"""The Gaussian sites of group expectation propagation, for one consumer.

In the eigenbasis of a group's cavity :math:`\Lambda_g = U \operatorname{diag}(\lambda) U^\top` all
moments are elementwise. The mixture of slab and zero has mean :math:`p\,m` and total variance

.. math:: \bar v = p\,\tfrac1k\sum_i \frac1{\lambda_i + \alpha} + p(1 - p)\,\overline{m^2}

and its Kullback-Leibler projection on a site :math:`\tau I` solves
:math:`\tfrac1k \sum_i (\lambda_i + \tau)^{-1} = \bar v`, in closed form for ``k = 1``.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probcomp.inference.quadratic.likelihood import Quadratic, inverse
from probcomp.inference.quadratic.savage_dickey import group_blocks, group_rows

MOST_SITE = {torch.float32: 1e3, torch.float64: 1e6}
"""Largest site precision, over the data's own for that group. A removed group is held at zero by
its site; a stronger one would drown the data's share in rounding when the cavity is taken."""

NEWTON_STEPS = 12
"""Newton steps on the harmonic mean, which is concave and nearly linear: 6 reach rounding."""


class Factor(Protocol):
    """A consumer of the units; see `GroupFactor`."""

    @property
    def quadratic(self) -> Quadratic: ...
    @property
    def columns(self) -> Tensor: ...
    @property
    def slab(self) -> float | None: ...


@dataclass(frozen=True, eq=False)
class FactorState:
    """Sites of one consumer.

    Attributes:
        site: Precision ``tau`` of each column, ``[di]``.
        linear: Linear term ``nu``, ``[do, di]``.
        slab: Slab precision ``alpha``.
    """

    site: Tensor
    linear: Tensor
    slab: float


@dataclass(frozen=True, eq=False)
class Cavity:
    """What the data and the other groups say about each group, in its eigenbasis.

    Attributes:
        values: Eigenvalues of the cavity precision, ``[G, k]``.
        basis: Eigenvectors ``[G, k, k]``, or None for single columns.
        linear: Linear term ``eta U``, ``[G, do, k]``.
        evidence: ``l_g``, ``[G]``, nats.
    """

    values: Tensor
    basis: Tensor | None
    linear: Tensor
    evidence: Tensor


def start_state(factor: Factor) -> FactorState:
    """All units kept: a site that is the slab itself is then exact."""
    quadratic = factor.quadratic
    slab = factor.slab
    if slab is None:
        square = float(quadratic.weight.square().mean())
        slab = 1 / square if square > 0 else 1.0
    site = quadratic.weight.new_full((quadratic.size,), slab)
    return FactorState(site, torch.zeros_like(quadratic.weight), slab)


def factor_cavity(factor: Factor, state: FactorState) -> Cavity:
    """One inverse, one product, and the evidence of each group."""
    quadratic, columns, slab = factor.quadratic, factor.columns, state.slab
    covariance = inverse(quadratic.precision, state.site)
    mean = group_rows((quadratic.linear + state.linear) @ covariance, columns)
    site, linear = state.site[columns], group_rows(state.linear, columns)
    if columns.shape[1] == 1:
        basis = None
        sharpness = 1 / covariance.diagonal()[columns]
    else:
        variance, basis = torch.linalg.eigh(group_blocks(covariance, columns))
        sharpness = 1 / variance
        mean, linear = mean @ basis, linear @ basis
    values = (sharpness - site).clamp_min(0)
    eta = mean * sharpness[:, None] - linear
    tilted = values + slab
    quality = (eta.square().sum(1) / tilted).sum(-1)
    occam = (slab / tilted).log().sum(-1)
    return Cavity(values, basis, eta, 0.5 * (quadratic.rows * occam + quality))


def update(
    factor: Factor, state: FactorState, cavity: Cavity, probability: Tensor, damping: float
) -> FactorState:
    """New sites, matched to the mixture and damped; and the slab's EM step where it is free."""
    columns, slab = factor.columns, state.slab
    tilted = cavity.values + slab
    mean = cavity.linear / tilted[:, None]
    square = mean.square().mean(1)  # over rows, [G, k]
    kept = probability[:, None]
    inner = (kept * (1 / tilted) + kept * (1 - kept) * square).mean(-1)
    site = _match(cavity.values, inner, slab)
    linear = mean * kept[:, :, None] * (cavity.values + site[:, None])[:, None] - cavity.linear
    if cavity.basis is not None:
        linear = linear @ cavity.basis.mT
    new_site, new_linear = state.site.clone(), state.linear.clone()
    keep = columns.flatten()
    spread = site[:, None].expand(columns.shape).flatten()
    fresh = linear.movedim(0, 1).flatten(1)
    new_site[keep], new_linear[:, keep] = damp(
        (spread, fresh), (state.site[keep], state.linear[:, keep]), damping
    )
    if factor.slab is None:
        slab = _slab(kept, 1 / tilted + square, slab)
        loose = torch.ones_like(new_site, dtype=torch.bool)
        loose[keep] = False
        new_site[loose] = slab
    return FactorState(new_site, new_linear, slab)


def movement(factor: Factor, cavity: Cavity, old: FactorState, new: FactorState) -> float:
    """Largest move of a unit's free share ``lambda / (lambda + tau)``, or of the slab's logarithm.

    The share is near 1 where the data decide and 0 for a unit held at zero: a unit whose
    probability already is 0 but whose site is still closing keeps inference going.
    """
    first = factor.columns[:, 0]
    data = cavity.values.mean(-1) + min(old.slab, new.slab)
    share = [data / (data + state.site[first]) for state in (old, new)]
    slab = abs(math.log(new.slab / old.slab))
    return max(float((share[1] - share[0]).abs().max()), slab)


def damp(
    new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], damping: float
) -> tuple[Tensor, Tensor]:
    r"""A step from old to new sites ``(tau [n], nu [do, n])``, in their variances and means.

    .. math:: \frac1\tau \leftarrow \frac{1 - d}{\tau'} + \frac d\tau,\qquad
              \frac\nu\tau \leftarrow (1 - d) \frac{\nu'}{\tau'} + d\,\frac\nu\tau

    The usual step in natural parameters would let a unit vanish in one iteration and take many to
    come back. In variances it fades, so that of two units that stand in for each other the weaker
    sees the stronger recover, and a unit that is wanted again is back at once.
    """
    weight, rest = (1 - damping) / new[0], damping / old[0]
    site = 1 / (weight + rest)
    return site, site * (weight * new[1] + rest * old[1])


def _match(values: Tensor, variance: Tensor, slab: float) -> Tensor:
    """The ``tau`` whose ``(Lambda + tau I)^-1`` has the mean variance ``[G]``, within bounds."""
    low = slab / 2
    high = MOST_SITE[values.dtype] * (values.mean(-1) + slab)
    target = 1 / variance.clamp_min(torch.finfo(values.dtype).tiny)
    if values.shape[1] == 1:
        return torch.minimum((target - values[:, 0]).clamp_min(low), high)
    tau = torch.full_like(target, low)
    for _ in range(NEWTON_STEPS):
        each = 1 / (values + tau[:, None])
        harmonic = 1 / each.mean(-1)
        slope = harmonic.square() * each.square().mean(-1)
        tau = torch.minimum((tau + (target - harmonic) / slope).clamp_min(low), high)
    return tau


def _slab(kept: Tensor, square: Tensor, old: float) -> float:
    """``1 / E[w^2 | kept]``; the old value where next to nothing is kept."""
    weight = float(kept.sum()) * square.shape[1]
    if weight < 1.0:
        return old
    return weight / float((kept * square).sum())
