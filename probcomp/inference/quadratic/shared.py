r"""Expectation propagation over single weights, with site precisions that all rows share.

Row-wise supports would need one inverse for each row. Sharing the site precision :math:`\tau_j` of
a column between the rows leaves one inverse for the layer, while each weight keeps its own linear
term :math:`\nu_{rj}`, its own evidence and its own support:

.. math:: C = (A + \operatorname{diag}\tau)^{-1},\quad M = (B + \nu) C,\quad
          v = \operatorname{diag} C,\quad \lambda_j = 1/v_j - \tau_j,\quad
          \eta_{rj} = M_{rj}/v_j - \nu_{rj}

Evidence and mixture moments are those of `Precisions`; the supports' posterior under any prior
comes from `probcomp.inference.marginals`; the new site has the rows' mean variance,
:math:`\tau_j = 1/\bar v_j - \lambda_j`, and :math:`\nu_{rj} = E[w_{rj}](\lambda_j + \tau_j) -
\eta_{rj}`. The structure is that of turbo compressed sensing (Ma, Yuan and Ping 2015) with rows as
snapshots of one linear model.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.learning import learn as learn_prior
from probcomp.inference.quadratic.beliefs import beliefs, messages
from probcomp.inference.quadratic.columns import Cavities, blocks, cavities
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.mixture import Precisions
from probcomp.inference.quadratic.sites import damp
from probcomp.inference.quadratic.weight_result import (
    Learn,
    WeightResult,
    WeightState,
    check_options,
    learn_slab,
    row_scale,
    start_state,
    weight_field,
)
from probcomp.priors.base import SupportPrior

LEARN_AFTER = 3
"""Iterations before the prior and the slab are learnt: first the sites find the weights' scale."""

STILL = 10.0
"""A learnt slab has settled when its relative change is below this many tolerances."""

PATIENCE = 5
HEAVY = 0.8
"""After this many iterations without progress the damping is raised to this."""


def ep_shared(
    quadratic: Quadratic,
    *,
    prior: SupportPrior | None = None,
    slab: float | None = None,
    spike: float | None = None,
    field: Tensor | float = 0.0,
    rows: Tensor | None = None,
    learn: bool | Learn = True,
    start: WeightState | WeightResult | None = None,
    iterations: int = 60,
    tolerance: float = 1e-3,
    damping: float = 0.2,
    block: int | None = None,
    **options: Any,
) -> WeightResult:
    """Inclusion probabilities and moments of every weight of a layer.

    An iteration costs one inverse (``di^3`` operations), one product (``2 do di^2``) and one pass
    of messages. Memory: three matrices ``[di, di]`` and nine ``[do, di]``. With blocks of ``b``
    columns the inverse costs ``di b^2`` and takes three matrices ``[b, b]`` beside the Gram
    matrix; the blocks see each other's means, not their covariance.

    Args:
        quadratic: The likelihood.
        prior: Support prior on ``[do, di]``; one over the last dimension acts on each row. None is
            even odds.
        slab: Precision of a kept weight; None starts at one over the mean square of the dense
            weights and learns it by EM (with ``learn``).
        spike: Precision of a removed weight; None is 100 times the slab's, and moves with it.
        field: Log-odds added to the prior's, a number, ``[di]`` or ``[do, di]``; a price is a
            field of ``-price * cost``.
        rows: Weight ``g`` of each row's loss, ``[do]``; None is all one.
        learn: Learn a free slab and, where the field is zero, the prior's parameters: by
            `probcomp.inference.learning.learn`, or by the step given, such as ``learn_lattice``
            with another cap on the coupling.
        start: An earlier result on the same layer.
        iterations: Most iterations.
        tolerance: Stop when no probability moves by more.
        damping: Share of the old sites that is kept, in [0, 1); raised to 0.8 where probabilities
            keep swinging.
        block: Columns of a block; None is all below 4096 columns and 2048 from there on.
        options: Passed to `probcomp.inference.marginals`.

    Raises:
        InputError: Shapes or options that do not fit.
        DivergenceError: A Gram matrix that is not positive definite to working precision.
    """
    check_options(slab, spike, iterations, tolerance, damping)
    if block is not None and block < 1:
        raise InputError(f"block must be at least 1, got {block}")
    scale, bias = row_scale(quadratic, rows), weight_field(field, quadratic)
    parts, base = blocks(quadratic.size, block), quadratic.linear * scale
    state = start_state(start, quadratic, scale, slab, spike)
    step: Learn = learn_prior if isinstance(learn, bool) else learn
    learn_field = bool(learn) and prior is not None and not bool((bias != 0).any())
    psi = beliefs(prior, bias, start=state.messages, **options)[0]
    probability = torch.sigmoid(psi)
    learn_scale = bool(learn) and slab is None
    moved = math.inf if learn_scale else 0.0
    change, best, stalled, converged, iteration = math.inf, math.inf, 0, False, 0
    while not converged and iteration < iterations:
        iteration += 1
        precisions = Precisions(state.slab / scale.square(), state.spike / scale.square())
        cavity = cavities(quadratic, base, state, precisions, psi, parts)
        evidence = precisions.evidence(cavity.precision, cavity.linear)
        if not bool(torch.isfinite(evidence).all()):
            raise DivergenceError(f"the evidence is not finite in iteration {iteration}")
        odds, result = beliefs(prior, evidence + bias, start=state.messages, **options)
        psi, new = odds - evidence, torch.sigmoid(odds)
        change, probability = float((new - probability).abs().max()), new
        converged = change < tolerance and moved < STILL * tolerance
        stalled = stalled + 1 if change >= best else 0
        best = min(best, change)
        if stalled >= PATIENCE:
            damping, stalled = max(damping, HEAVY), 0
        mean, variance = precisions.moments(cavity.precision, cavity.linear, probability)
        state = _update(state, precisions, cavity, mean, variance, damping)
        state = replace(state, messages=messages(result))
        if learn_field and result is not None and prior is not None and iteration >= LEARN_AFTER:
            prior = step(prior, result)
        if learn_scale and iteration >= LEARN_AFTER:
            square = precisions.slab_square(cavity.precision, cavity.linear) / scale.square()
            before, state = state.slab, learn_slab(state, probability, square, spike is None)
            moved = abs(math.log(state.slab / before))
    kept_mean, kept_variance = precisions.moments(
        cavity.precision, cavity.linear, torch.ones_like(odds)
    )
    return WeightResult(
        odds,
        probability,
        evidence,
        mean / scale,
        variance / scale.square(),
        state.slab,
        state.spike,
        prior,
        iteration,
        converged,
        change,
        state,
        kept_mean / scale,
        kept_variance / scale.square(),
    )


def _update(
    state: WeightState,
    precisions: Precisions,
    cavity: Cavities,
    mean: Tensor,
    variance: Tensor,
    damping: float,
) -> WeightState:
    """Damped sites with the rows' mean variance; columns without a cavity keep theirs."""
    low, high = float(precisions.slab.min()) / 2, 2 * float(precisions.spike.max())
    site = (1 / variance.mean(0) - cavity.precision[0]).clamp(low, high)
    linear = mean * (cavity.precision + site) - cavity.linear
    site, linear = damp((site, linear), (state.site, state.linear), damping)
    return replace(
        state,
        site=torch.where(cavity.determined, site, state.site),
        linear=torch.where(cavity.determined, linear, state.linear),
        mean=mean,
    )
