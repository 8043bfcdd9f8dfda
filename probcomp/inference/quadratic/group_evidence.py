r"""The evidence of a layer for its prior and slab: the normaliser of expectation propagation.

With cavities :math:`(\Lambda_g, \eta_{rg})` and sites :math:`(\tau_g, \nu_{rg})` of the units,
columns of no unit under their slab, and :math:`T = \mathrm{diag}\,\tau`,

.. math:: \ln Z = \sum_r \ln\!\int\! e^{(B_r + \nu_r) w - \frac12 w^\top (A + T) w}
          \,dw

.. math:: \qquad - \sum_{gr} \ln\!\int\! e^{(\eta_{rg} + \nu_{rg}) w - \frac12 w^\top (\Lambda_g +
          \tau_g I) w}\,dw + \ln \sum_s p(s)\, e^{\langle l, s \rangle}

(Rasmussen and Williams 2006, eq. 3.65, for these factors; a removed unit is exactly zero, so that
its own integral is one). At a fixed point it does not move with the sites to first order.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probcomp.inference.quadratic.group import GroupFactor, GroupResult
from probcomp.inference.quadratic.likelihood import Quadratic, cholesky
from probcomp.inference.quadratic.savage_dickey import group_rows
from probcomp.inference.quadratic.sites import FactorState, factor_cavity
from probcomp.inference.supports import CLIP, marginals
from probcomp.priors.base import softplus


def log_evidence(factors: Sequence[GroupFactor], result: GroupResult) -> float:
    """``ln p(D)`` under the result's prior, field, price and slabs, less that without any weight.

    One more inverse of each factor's matrix, in double precision.

    Args:
        factors: The axis's consumers.
        result: What `ep_group` found for them.

    Returns:
        Nats; comparable between priors and slabs on the same layer.
    """
    total, evidence = 0.0, result.field - result.price * result.cost
    for factor, state in zip(factors, result.states, strict=True):
        gaussian, own = _consumer(factor, state)
        total, evidence = total + gaussian, evidence + own
    # `marginals` reads no more than CLIP; what is beyond multiplies the sum as it is.
    beyond = float((evidence - CLIP).clamp_min(0).sum())
    if result.prior is None:
        return total + float((softplus(evidence) - math.log(2)).sum())
    return total + beyond + float(marginals(result.prior, evidence).log_z)


def _consumer(factor: GroupFactor, state: FactorState) -> tuple[float, Tensor]:
    """The Gaussian part of one consumer, and its evidence for each unit.

    In double precision: large terms cancel, and differences of one nat are to count.
    """
    given, columns = factor.quadratic, factor.columns
    quadratic = Quadratic(given.weight.double(), given.gram.double(), given.jitter)
    factor = dataclasses.replace(factor, quadratic=quadratic)
    state = FactorState(state.site.double(), state.linear.double(), state.slab)
    cavity = factor_cavity(factor, state)
    root = cholesky(quadratic.precision + state.site.diag())
    shifted = quadratic.linear + state.linear
    whitened = torch.linalg.solve_triangular(root, shifted.mT, upper=False)
    whole = 0.5 * whitened.square().sum() - quadratic.rows * root.diagonal().log().sum()
    linear = group_rows(state.linear, columns)
    if cavity.basis is not None:
        linear = linear @ cavity.basis
    closed = cavity.values + state.site[columns[:, 0]][:, None]
    units = 0.5 * ((cavity.linear + linear).square().sum(1) / closed).sum()
    units = units - 0.5 * quadratic.rows * closed.log().sum()
    loose = quadratic.size - columns.numel()
    slabs = 0.5 * quadratic.rows * loose * math.log(state.slab)
    return float(whole - units) + slabs, cavity.evidence
