r"""Inclusion scores of the units of an axis around a decision, with neighbours integrated out.

Evidence is the tempered quadratic of the read-outs; the support of each unit has the factor
"kept under a slab, or zero". Expectation propagation with a site precision that all rows share
(`probcomp.inference.quadratic`) gives each unit's cavity, and from it

.. math:: l_g = \tfrac12 \sum_r \eta_{rg}^\top (\Lambda_g + \alpha I)^{-1} \eta_{rg},\qquad
          \ln\frac{P(s_g = 1)}{P(s_g = 0)} = l_g - \lambda c_g + \text{prior}

the loss that removing the unit costs, given what the others are believed to make up for. The
factor's Occam term ``(do/2) ln det(alpha (Lambda + alpha)^-1)`` is left to the price: a read-out
that exists already costs what storing it costs, ``lambda c_g`` nats, and not the ``do k / 2``
logarithms of a weight that has yet to be learnt. So these numbers are no posterior of a generative
model. The units that go are chosen by elimination and measured tempering beforehand; the numbers
are inclusion scores between 0 and 1 around that decision, and have not been validated as
calibrated probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probcomp.inference.quadratic import GroupFactor
from probcomp.inference.quadratic.beliefs import beliefs
from probcomp.inference.quadratic.sites import (
    MOST_SITE,
    FactorState,
    factor_cavity,
    start_state,
    update,
)
from probcomp.priors.base import SupportPrior

FLAT = 1e-6
"""Slab precision over the mean diagonal of the Gram matrix: the limit of Optimal Brain Surgeon."""


@dataclass(frozen=True, eq=False)
class UnitBelief:
    """Posterior of one axis.

    Attributes:
        evidence: ``l_g`` [G], nats.
        log_odds: Posterior log-odds [G], nats, price and prior included.
        probability: Inclusion probabilities [G].
        change: Largest move of a probability in the last iteration.
    """

    evidence: Tensor
    log_odds: Tensor
    probability: Tensor
    change: float


def believe(
    factors: Sequence[GroupFactor],
    keep: Tensor,
    *,
    price: Tensor | float,
    prior: SupportPrior | None = None,
    iterations: int = 2,
    damping: float = 0.5,
) -> UnitBelief:
    """Iterate from a decision to the beliefs around it.

    Args:
        factors: The tempered likelihood of each read-out, in nats. A slab that is not given is
            flat.
        keep: The decision to start from, boolean [G].
        price: What each unit costs, nats, a number or [G].
        prior: Support prior over the units in order; none is even odds.
        iterations: Most iterations; each takes one inverse of each read-out's matrix.
        damping: Share of the old sites that is kept in an iteration.
    """
    factors = [f if f.slab is not None else replace(f, slab=_flat(f)) for f in factors]
    states = [_started(factor, keep) for factor in factors]
    probability = keep.double()
    for step in range(iterations):
        cavities = [factor_cavity(f, s) for f, s in zip(factors, states)]
        evidence = torch.zeros(len(keep), dtype=torch.float64)
        for cavity, state in zip(cavities, states):
            quality = cavity.linear.square().sum(1) / (cavity.values + state.slab)
            evidence = evidence + 0.5 * quality.sum(-1).double()
        odds, _ = beliefs(prior, evidence - price)
        new = torch.sigmoid(odds)
        change = float((new - probability).abs().max())
        probability = new
        if change < 1e-3 or step == iterations - 1:
            break
        states = [
            update(f, s, c, probability.to(c.linear), damping)
            for f, s, c in zip(factors, states, cavities)
        ]
    return UnitBelief(evidence, odds, probability, change)


def _flat(factor: GroupFactor) -> float:
    """A slab that does not pull kept weights to zero: trained weights are not drawn from it."""
    return FLAT * float(factor.quadratic.precision.diagonal().mean())


def _started(factor: GroupFactor, keep: Tensor) -> FactorState:
    """Sites of a decision: the slab for what stays, a strong pull to zero for what goes."""
    state = start_state(factor)
    site = state.site.clone()
    gram = factor.quadratic.precision.diagonal()
    most = MOST_SITE[site.dtype] ** 0.5
    for columns in factor.columns[~keep]:
        site[columns] = most * (gram[columns].mean() + state.slab)
    return FactorState(site, state.linear, state.slab)
