"""Collapsed Gibbs sampling over single weights, all rows of a layer at once."""

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.conditional import check_samplable, conditional, together
from probcomp.inference.quadratic.likelihood import Quadratic, cholesky
from probcomp.inference.quadratic.mixture import Precisions
from probcomp.inference.quadratic.trace import check_sweeps, log_odds, standard_error
from probcomp.inference.quadratic.weight_result import (
    WeightResult,
    check_options,
    row_scale,
    start_state,
    weight_field,
)
from probcomp.priors.base import SupportPrior

MOST_CELLS = 2**27
"""Most numbers in the rows' covariances, 1 GiB: beyond it use expectation propagation."""


def gibbs_weights(
    quadratic: Quadratic,
    *,
    prior: SupportPrior | None = None,
    slab: float | None = None,
    spike: float | None = None,
    field: Tensor | float = 0.0,
    rows: Tensor | None = None,
    sweeps: int = 250,
    burn: int = 50,
    seed: int = 0,
) -> WeightResult:
    """Inclusion probabilities of weights as `ep_shared` gives them, exact up to sampling error.

    Every row has its own covariance ``[do, di, di]``, and a column of supports moves at once where
    the prior allows. A free slab or spike starts as in `ep_shared` and stays.

    Args:
        quadratic: The likelihood.
        prior: Support prior: None, one over the last dimension, or a Lattice.
        slab: Precision of a kept weight, or None.
        spike: Precision of a removed weight, or None.
        field: Log-odds added to the prior's.
        rows: Weight of each row's loss, or None.
        sweeps: Sweeps that count.
        burn: Sweeps before them.
        seed: Seed of the draws.

    Returns:
        Averages over sweeps; ``evidence`` is the mean conditional evidence, ``change`` the largest
        Monte-Carlo standard error of a probability.

    Raises:
        InputError: A layer whose covariances would take more than 1 GiB, a prior without
            conditionals or with a fixed count, or bad options.
    """
    check_options(slab, spike, 1, 1.0, 0.0)
    check_samplable(prior)
    check_sweeps(sweeps, burn)
    do, di = quadratic.weight.shape
    if do * di * di > MOST_CELLS:
        raise InputError(
            f"Gibbs sampling keeps {do} covariances of {di} x {di}, more than fits; it is the "
            "reference for small layers: use ep_shared"
        )
    scale, bias = row_scale(quadratic, rows), weight_field(field, quadratic)
    start = start_state(None, quadratic, scale, slab, spike)
    chain = _Chain(quadratic, scale.expand(do, 1), start.slab, start.spike)
    generator = torch.Generator().manual_seed(seed)
    trace = chain.linear.new_zeros(sweeps, do, di)
    totals = [torch.zeros_like(chain.linear) for _ in range(3)]
    sets = together(prior, do)
    for sweep in range(-burn, sweeps):
        chain.refresh()
        draws = torch.rand(do, di, generator=generator, dtype=torch.float64)
        for j in range(di):
            for part in sets:
                psi = conditional(prior, chain.support, j)[part] + bias[part, j]
                evidence, p, mean, square = chain.column(part, j, psi)
                if sweep >= 0:
                    trace[sweep, part, j] = p
                    for total, value in zip(totals, (evidence, mean, square)):
                        total[part, j] += value / sweeps
                chain.put(part, j, (draws[part, j] < p).to(chain.support))
    average = trace.mean(0)
    evidence, mean, square = totals
    variance = (square - mean.square()).clamp_min(0)
    return WeightResult(
        log_odds(average),
        average,
        evidence,
        mean / scale,
        variance / scale.square(),
        start.slab,
        start.spike,
        prior,
        sweeps,
        True,
        standard_error(trace.flatten(1)),
        start,
    )


class _Chain:
    """Supports, and the weights' posterior given them; mutable."""

    def __init__(self, quadratic: Quadratic, scale: Tensor, slab: float, spike: float) -> None:
        self.quadratic = quadratic
        self.slab, self.spike = slab / scale.square(), spike / scale.square()  # [do, 1]
        self.linear = quadratic.linear * scale
        self.support = torch.ones_like(self.linear)

    def refresh(self) -> None:
        """Covariances ``[do, di, di]`` and means from scratch."""
        site = torch.where(self.support > 0, self.slab, self.spike)
        precision = self.quadratic.precision + torch.diag_embed(site)
        self.covariance = torch.cholesky_inverse(cholesky(precision))
        self.mean = (self.covariance @ self.linear[:, :, None])[:, :, 0]

    def column(self, part: Tensor, j: int, psi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Evidence, probability, mean and mean square of one column's weights given the rest."""
        slab, spike = self.slab[part, 0], self.spike[part, 0]
        sharpness = 1 / self.covariance[part, j, j]
        cavity = sharpness - torch.where(self.support[part, j] > 0, slab, spike)
        eta = self.mean[part, j] * sharpness
        precisions = Precisions(slab, spike)
        evidence = precisions.evidence(cavity, eta)
        p = torch.sigmoid(evidence + psi)
        mean, variance = precisions.moments(cavity, eta, p)
        return evidence, p, mean, variance + mean.square()

    def put(self, part: Tensor, j: int, new: Tensor) -> None:
        """Set a column's supports: Sherman and Morrison's update in the rows that changed."""
        step = new - self.support[part, j]
        moved = part[step != 0]
        self.support[part, j] = new
        if not len(moved):
            return
        delta = step[step != 0] * (self.slab - self.spike)[moved, 0]
        line = self.covariance[moved, :, j]
        gain = delta / (1 + delta * line[:, j])
        self.covariance[moved] -= gain[:, None, None] * line[:, :, None] * line[:, None, :]
        self.mean[moved] -= (gain * self.mean[moved, j])[:, None] * line
