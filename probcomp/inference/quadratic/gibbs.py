r"""Collapsed Gibbs sampling over supports: the reference for a few hundred units.

Weights are integrated out, each support is drawn from its exact conditional

.. math:: P(s_g = 1 \mid s_{-g}, D) = \sigma\bigl(l_g(s_{-g}) + \psi_g(s_{-g})\bigr)

and inclusion probabilities average these conditionals instead of the draws (Rao-Blackwell). Each
flip is a low-rank update of the posterior covariance; once a sweep it is made anew by Cholesky, so
that rounding does not add up.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.conditional import check_samplable, conditional
from probcomp.inference.quadratic.gibbs_weights import gibbs_weights
from probcomp.inference.quadratic.group import GroupFactor, GroupResult, check_axis, per_unit
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.pivot import Pivot
from probcomp.inference.quadratic.sites import start_state
from probcomp.inference.quadratic.trace import check_sweeps, log_odds, standard_error
from probcomp.inference.quadratic.weight_result import WeightResult
from probcomp.priors.base import SupportPrior

MOST_UNITS = 200
"""Most units: a sweep visits each alone, and single flips mix slowly among many that are alike."""


def gibbs_groups(
    factors: Sequence[GroupFactor],
    *,
    prior: SupportPrior | None = None,
    field: Tensor | float = 0.0,
    cost: Tensor | float = 1.0,
    price: float = 0.0,
    sweeps: int = 250,
    burn: int = 50,
    seed: int = 0,
) -> GroupResult:
    """Inclusion probabilities of units as `ep_group` gives them, exact up to sampling error.

    A free slab is one over the mean square of the dense weights, and stays. A sweep costs
    ``G k (di^2 + do di)`` operations where every unit flips; usually few do.

    Args:
        factors: The axis's consumers.
        prior: Support prior over the units, or None for even odds.
        field: Log-odds added to the prior's, a number or ``[G]``.
        cost: Cost of each unit.
        price: Nats for each unit of cost.
        sweeps: Sweeps that count.
        burn: Sweeps before them.
        seed: Seed of the draws.

    Returns:
        Averages over sweeps: ``evidence`` is the mean conditional evidence, and ``change``
        is the largest Monte-Carlo standard error of a probability, from batch means.

    Raises:
        InputError: Factors that do not fit, more than `MOST_UNITS` units, or a prior that fixes the
            count.
    """
    units = check_axis(factors)
    if units > MOST_UNITS:
        raise InputError(
            f"Gibbs sampling is the reference for up to {MOST_UNITS} units, got {units}: use "
            "ep_group"
        )
    check_samplable(prior)
    check_sweeps(sweeps, burn)
    like = factors[0].quadratic.weight
    field_, cost_ = per_unit("field", field, units, like), per_unit("cost", cost, units, like)
    if not math.isfinite(price) or bool((cost_ < 0).any()):
        raise InputError(f"price must be finite and costs not negative, got a price of {price}")
    bias = field_ - price * cost_
    generator = torch.Generator().manual_seed(seed)
    starts = [start_state(f) for f in factors]
    every = torch.ones(units, dtype=torch.bool)
    pivots = [Pivot(f.quadratic, f.columns, s.slab, every) for f, s in zip(factors, starts)]
    support = torch.ones(units, dtype=like.dtype)
    trace, evidence = like.new_zeros(sweeps, units), like.new_zeros(units)
    for sweep in range(-burn, sweeps):
        draws = torch.rand(units, generator=generator, dtype=torch.float64)
        for unit in range(units):
            at = torch.tensor([unit])
            l = torch.stack([p.evidence(at) for p in pivots]).sum()
            psi = conditional(prior, support, unit) + bias[unit]
            p = float(torch.sigmoid(l + psi))
            if (float(draws[unit]) < p) != bool(support[unit]):
                support[unit] = 1 - support[unit]
                for pivot in pivots:
                    pivot.toggle(unit)
            if sweep >= 0:
                trace[sweep, unit] = p
                evidence[unit] += l / sweeps
        for pivot in pivots:
            pivot.refresh()
    mean = trace.mean(0)
    return GroupResult(
        log_odds(mean), mean, evidence, field_, cost_, price, prior,
        tuple(s.slab for s in starts), sweeps, True, standard_error(trace), tuple(starts),
    )  # fmt: skip


def gibbs(model: Quadratic | Sequence[GroupFactor], **settings: Any) -> WeightResult | GroupResult:
    """`gibbs_weights` for a quadratic, `gibbs_groups` for the factors of an axis."""
    if isinstance(model, Quadratic):
        return gibbs_weights(model, **settings)
    return gibbs_groups(model, **settings)
