r"""Layers with a known answer, for inference after training: teachers and brute force.

A teacher draws supports and weights from the prior that inference assumes, makes outputs
``y = W x + e`` with unit noise from correlated inputs, and hands over the least-squares weights and
the Gram matrix: what is left of the data is then exactly the quadratic likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, Quadratic
from probcomp.priors.base import SupportPrior
from probcomp.testing.enumeration import all_supports


@dataclass(frozen=True, eq=False)
class Teacher:
    """A layer, and the supports that made it.

    Attributes:
        quadratic: Its likelihood, without jitter.
        support: True supports, boolean: ``[do, di]`` of weights, ``[G]`` of groups.
        slab: Precision of kept weights.
        spike: Precision of removed weights; infinite for groups.
        columns: Columns of each group, ``[G, k]``; of weights, each column alone.
        truth: The weights that made the outputs, ``[do, di]``.
    """

    quadratic: Quadratic
    support: Tensor
    slab: float
    spike: float
    columns: Tensor
    truth: Tensor

    @property
    def factor(self) -> GroupFactor:
        """The layer as the only consumer of its groups."""
        return GroupFactor(self.quadratic, self.columns, self.slab)


def correlated_inputs(
    tokens: int, size: int, correlation: float, generator: torch.Generator
) -> Tensor:
    """Standard normal inputs plus ``correlation`` times one common factor, ``[tokens, size]``."""
    own = torch.randn(tokens, size, generator=generator, dtype=torch.float64)
    return own + correlation * torch.randn(tokens, 1, generator=generator, dtype=torch.float64)


def weight_teacher(
    *,
    rows: int = 24,
    size: int = 9,
    tokens: int = 80,
    correlation: float = 0.0,
    density: float = 0.5,
    prior: SupportPrior | None = None,
    support: Tensor | None = None,
    slab: float = 25.0,
    spike: float = 2500.0,
    seed: int = 0,
) -> Teacher:
    """Every weight with a support of its own; ``prior`` or ``support`` replace ``density``."""
    generator = torch.Generator().manual_seed(seed)
    size = size if support is None else support.shape[1]
    inputs = correlated_inputs(tokens, size, correlation, generator)
    if support is None:
        if prior is None:
            support = torch.rand(rows, size, generator=generator) < density
        else:
            support = prior.sample((rows, size), generator=generator)
    scale = torch.where(support, slab**-0.5, spike**-0.5).double()
    weight = scale * torch.randn(support.shape, generator=generator, dtype=torch.float64)
    columns = torch.arange(support.shape[1])[:, None]
    return Teacher(_fit(inputs, weight, generator), support, slab, spike, columns, weight)


def group_teacher(
    *,
    groups: int = 8,
    width: int = 3,
    rows: int = 8,
    tokens: int = 40,
    correlation: float = 0.0,
    density: float = 0.5,
    prior: SupportPrior | None = None,
    slab: float = 25.0,
    seed: int = 0,
) -> Teacher:
    """Groups of columns that are kept or exactly zero in all rows."""
    generator = torch.Generator().manual_seed(seed)
    inputs = correlated_inputs(tokens, groups * width, correlation, generator)
    if prior is None:
        support = torch.rand(groups, generator=generator) < density
    else:
        support = prior.sample((groups,), generator=generator)
    scale = support.repeat_interleave(width).double() * slab**-0.5
    weight = scale * torch.randn(rows, groups * width, generator=generator, dtype=torch.float64)
    columns = torch.arange(groups * width).view(groups, width)
    return Teacher(_fit(inputs, weight, generator), support, slab, math.inf, columns, weight)


def enumerate_weights(
    teacher: Teacher, *, prior: SupportPrior | None = None, rows: Tensor | None = None
) -> Tensor:
    """Exact inclusion probabilities ``[do, di]`` by summing over the supports of each row.

    Args:
        teacher: A layer of few columns.
        prior: Prior over one row; None is even odds.
        rows: Weight of each row's loss.
    """
    quadratic = teacher.quadratic
    supports = all_supports(quadratic.size)
    precision = torch.where(supports > 0, teacher.slab, teacher.spike).double()
    log_prior = 0.0 if prior is None else prior.log_prob(supports)
    result = torch.zeros_like(quadratic.weight)
    for row, linear in enumerate(quadratic.linear):
        weight = 1.0 if rows is None else float(rows[row])
        score = _log_evidence(weight * quadratic.precision, weight * linear[None], precision)
        result[row] = torch.softmax(score + log_prior, 0) @ supports
    return result


@dataclass(frozen=True, eq=False)
class GroupPosterior:
    """The posterior over all sets of units.

    Attributes:
        supports: ``[2^G, G]``, zeros and ones.
        score: Log posterior of each, unnormalised, nats.
    """

    supports: Tensor
    score: Tensor

    @property
    def weight(self) -> Tensor:
        """Posterior probability of each set."""
        return torch.softmax(self.score, 0)

    @property
    def probability(self) -> Tensor:
        """``P(s_g = 1)``, ``[G]``."""
        return self.weight @ self.supports


def enumerate_groups(
    factors: Sequence[GroupFactor],
    *,
    prior: SupportPrior | None = None,
    bias: Tensor | float = 0.0,
) -> GroupPosterior:
    """The exact posterior of an axis of few units; ``bias`` is field minus price times cost."""
    supports = all_supports(len(factors[0].columns))
    score = (supports * bias).sum(1)
    if prior is not None:
        score = score + prior.log_prob(supports)
    for factor in factors:
        score = score + set_evidence(factor, supports > 0)
    return GroupPosterior(supports, score)


def set_evidence(factor: GroupFactor, kept: Tensor) -> Tensor:
    """``ln p(D | S) - ln p(D | no unit)`` of one consumer for sets of units ``[..., G]``, nats."""
    if factor.slab is None:
        raise InputError("the evidence of a set needs the slab of every factor")
    inside = torch.ones(*kept.shape[:-1], factor.quadratic.size, dtype=torch.bool)
    inside[..., factor.columns.flatten()] = kept.repeat_interleave(factor.columns.shape[1], -1)
    loose = torch.ones(factor.quadratic.size, dtype=torch.bool)
    loose[factor.columns.flatten()] = False
    return _set(factor.quadratic, inside, factor.slab) - _set(factor.quadratic, loose, factor.slab)


def _set(quadratic: Quadratic, inside: Tensor, slab: float) -> Tensor:
    """Removed columns are cut out of the Gram matrix and cost nothing under a slab of their own."""
    kept = inside.double()
    cut = quadratic.precision * kept[..., :, None] * kept[..., None, :]
    linear = quadratic.linear * kept[..., None, :]
    return _log_evidence(cut, linear, torch.full_like(kept, slab))


def _log_evidence(gram: Tensor, linear: Tensor, precision: Tensor) -> Tensor:
    """``ln N``-integral of ``rows`` Gaussian likelihoods under each diagonal prior ``[S, n]``."""
    factor = torch.linalg.cholesky(gram + torch.diag_embed(precision))
    target = linear.mT.expand(*factor.shape[:-1], linear.shape[-2])
    whitened = torch.linalg.solve_triangular(factor, target, upper=False)
    log_det = precision.log().sum(-1) - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (linear.shape[-2] * log_det + whitened.square().sum((-2, -1)))


def _fit(inputs: Tensor, weight: Tensor, generator: torch.Generator) -> Quadratic:
    """Least squares and Gram matrix of noisy outputs of true weights."""
    noise = torch.randn(len(inputs), len(weight), generator=generator, dtype=torch.float64)
    gram, cross = inputs.mT @ inputs, inputs.mT @ (inputs @ weight.mT + noise)
    return Quadratic(torch.linalg.solve(gram, cross).mT.contiguous(), gram, jitter=0.0)
