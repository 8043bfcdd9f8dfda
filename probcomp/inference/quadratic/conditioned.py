r"""Expectation propagation given the supports that it is least sure of.

A Gaussian site cannot hold two answers, and where one of two alike columns is needed expectation
propagation is off by up to 0.2. With the ``k`` least sure supports fixed in each of their ``2^k``
states the rest is easier; the states weigh as much as their evidence says,

.. math:: P(s \mid D) \approx \sum_c \frac{Z_c}{\sum_{c'} Z_{c'}} P_c(s),\qquad
          Z_c \approx p(D, s_K = c)

with the evidence of expectation propagation (Rasmussen and Williams 2006, eq. 3.65, for these
factors): with cavity :math:`(\lambda_j, \eta_j)` and site :math:`(\tau_j, \nu_j)`,

.. math:: \ln Z = \ln\!\int\! e^{(B + \nu)w - \frac12 w^\top (A + \mathrm{diag}\,\tau) w} dw
          + \ln \sum_s p(s) e^{\langle l, s\rangle} + \sum_j \ln
          \frac{\int e^{\eta_j w - \frac12\lambda_j w^2} N(w; 0, 1/\alpha_0)\,dw}
               {\int e^{(\eta_j + \nu_j) w - \frac12(\lambda_j + \tau_j) w^2}\,dw}.
"""

import itertools
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.columns import blocks, cavities
from probcomp.inference.quadratic.likelihood import Quadratic, cholesky
from probcomp.inference.quadratic.mixture import Precisions
from probcomp.inference.quadratic.shared import ep_shared
from probcomp.inference.quadratic.weight_result import WeightResult, check_options
from probcomp.inference.supports import CLIP, marginals
from probcomp.priors.base import SupportPrior

MOST = 8
"""Most supports that are fixed: 256 inferences."""


FIXED = 1e6
"""Field that fixes a support, nats; above any evidence."""

ROUNDS, SETTLED = 40, 1e-6
"""An inference is continued up to so often, until its sites' relative move is below this."""


@dataclass(frozen=True, eq=False)
class Conditioned:
    """The mixture over the states of the fixed supports.

    Attributes:
        probability: Inclusion probabilities, [di].
        mean: Posterior means, [di].
        supports: Columns whose supports were fixed, the least sure one first.
        log_evidence: ``ln int exp(B w - w A w / 2) p(w) dw``, nats.
        converged: Whether probabilities and sites of every inference settled.
    """

    probability: Tensor
    mean: Tensor
    supports: tuple[int, ...]
    log_evidence: float
    converged: bool


def ep_conditioned(
    quadratic: Quadratic,
    *,
    prior: SupportPrior | None = None,
    slab: float,
    spike: float,
    supports: int = 2,
    iterations: int = 300,
    tolerance: float = 1e-7,
    damping: float = 0.3,
) -> Conditioned:
    """Inclusion probabilities of one row, by ``1 + 2^supports`` inferences with `ep_shared`.

    Each is continued until its sites stand still, which takes a few runs more.

    Args:
        quadratic: The likelihood of one row.
        prior: Support prior over the row; None is even odds.
        slab: Precision of a kept weight.
        spike: Precision of a removed weight.
        supports: How many supports are fixed.
        iterations: Most iterations of each run of `ep_shared`.
        tolerance: As of `ep_shared`.
        damping: As of `ep_shared`.

    Raises:
        InputError: Several rows, more supports than there are or than 8, bad options.
    """
    check_options(slab, spike, iterations, tolerance, damping)
    if quadratic.rows != 1:
        raise InputError(f"conditioning is for one row, got {quadratic.rows}; split the rows")
    if not 0 <= supports <= min(MOST, quadratic.size):
        raise InputError(
            f"supports must be between 0 and {min(MOST, quadratic.size)}, got {supports}"
        )

    def run(field: Tensor | float) -> tuple[WeightResult, bool]:
        """The inference, and whether its probabilities and sites have settled."""
        result = before = None
        for _ in range(ROUNDS):
            before = result
            result = ep_shared(
                quadratic, prior=prior, slab=slab, spike=spike, field=field, learn=False,
                start=before, iterations=iterations, tolerance=tolerance, damping=damping,
            )  # fmt: skip
            # Probabilities of fixed supports stand still from the start; their sites do not.
            if before is not None and _moved(before, result) < SETTLED:
                return result, result.converged
        return cast("WeightResult", result), False

    first, settled = run(0.0)
    doubt = -(first.probability - 0.5).abs()[0]
    chosen = doubt.argsort(descending=True)[:supports]
    log_z, found = [], []
    for state in itertools.product((-1.0, 1.0), repeat=supports):
        field = torch.zeros_like(quadratic.weight)
        field[0, chosen] = FIXED * torch.tensor(state).to(field)
        result, still = run(field) if supports else (first, settled)
        found.append(result)
        settled = settled and still
        log_z.append(_log_evidence(quadratic, prior, found[-1], field))
    total = torch.stack(log_z)
    weight = torch.softmax(total, 0)[:, None]
    return Conditioned(
        (weight * torch.stack([r.probability[0] for r in found])).sum(0),
        (weight * torch.stack([r.mean[0] for r in found])).sum(0),
        tuple(chosen.tolist()),
        float(total.logsumexp(0)),
        settled,
    )


def _moved(old: WeightResult, new: WeightResult) -> float:
    move = (new.state.site - old.state.site).abs() / old.state.site
    mean = (new.mean - old.mean).abs().max() / new.mean.abs().max().clamp_min(1e-30)
    return max(float(move.max()), float(mean))


def _log_evidence(
    quadratic: Quadratic, prior: SupportPrior | None, result: WeightResult, field: Tensor
) -> Tensor:
    """``ln p(D, s_K = c)`` where the field fixes the supports ``K``, and ``ln p(D)`` without."""
    state, base = result.state, quadratic.linear
    slab, spike = base.new_full((1, 1), state.slab), base.new_full((1, 1), state.spike)
    precisions, parts = Precisions(slab, spike), blocks(quadratic.size, quadratic.size)
    cavity = cavities(quadratic, base, state, precisions, torch.zeros_like(base), parts)
    evidence = precisions.evidence(cavity.precision, cavity.linear)
    fixed = field != 0
    # `marginals` reads no more than CLIP; what is beyond multiplies the sum as it is.
    inner = torch.where(fixed, CLIP * field.sign(), evidence.clamp_max(CLIP))
    if prior is None:
        supports = (torch.nn.functional.softplus(inner) - math.log(2)).sum()
    else:
        supports = marginals(prior, inner if prior.event_dim > 1 else inner[0]).log_z.sum()
    beyond = (field > 0) | (~fixed & (evidence > CLIP))
    supports = supports + torch.where(beyond, evidence - CLIP, 0.0).sum()
    factor = cholesky(quadratic.precision + state.site.diag())
    shifted = base + state.linear
    means = torch.cholesky_solve(shifted.mT, factor).mT
    joint = 0.5 * (shifted * means).sum() - factor.diagonal().log().sum()
    joint = joint + 0.5 * quadratic.size * math.log(2 * math.pi)
    wide = cavity.precision + spike
    spiked = 0.5 * (spike.log() - wide.log() + cavity.linear.square() / wide)
    closed = cavity.precision + state.site
    site = (cavity.linear + state.linear).square() / closed
    site = 0.5 * (site - closed.log() + math.log(2 * math.pi))
    return joint + supports + (spiked - site).sum()
