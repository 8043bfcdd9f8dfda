r"""Which weights of a regression are needed: one question, one call.

.. math:: y = Xw + e,\quad e \sim N(0, \beta^{-1} I),\quad
          w_n \mid s_n \sim N(0, 1/\alpha_{s_n}),\quad s \sim p(s)

The package's inferences for it differ in what they cost and in what they promise:

``exact``
    All supports are summed over: ``2^n n^3`` operations.
``ep``
    Expectation propagation given the supports that are least sure
    (`probcomp.inference.quadratic.ep_conditioned`): two of them, five where samples are fewer than
    weights. Of those that scale it is the nearest to exact, and right about two columns that stand
    in for each other. With fewer samples than weights, or several pairs of such columns, it may be
    off by 0.15, its evidence by half a nat either way, and ``converged`` does not tell; the two
    below are off by 0.8 there.
``joint``
    Coordinate ascent on a bound under a chain, split at each support
    (`probcomp.inference.joint.joint_chain`): its log evidence is never too high. Up to a hundred
    weights; `Chain` or `Independent` with numbers for parameters.
``turbo``
    Messages between weights and supports (`probcomp.inference.turbo`), what a training run can
    afford: it may settle on the wrong one of two columns.

``probcomp bench regression`` measures all of them against ``exact``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError, unknown
from probcomp.inference.joint import joint_chain
from probcomp.inference.quadratic.conditioned import ep_conditioned
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.regression import Data, GaussianRegression
from probcomp.inference.turbo import turbo
from probcomp.priors.base import SupportPrior

EXACT = 16
"""Most weights for which the default sums over all supports: 65,536 of them, 0.3 seconds."""
MOST_EXACT = 20
"""Most weights for which that can be asked for: a million supports, a minute."""
AT_ONCE = 4096
CONDITIONED, CONDITIONED_OF_FEW = 2, 5
"""Supports that expectation propagation fixes; the second where samples are fewer than weights."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The posterior of a sparse regression with ``n`` weights.

    Attributes:
        probability: Inclusion probabilities, [n].
        mean: Posterior means of the weights, [n].
        log_evidence: ``ln p(y)``, nats: exact, by EP, or a lower bound, as the inference has it.
        inference: What was done: ``exact``, ``ep``, ``joint`` or ``turbo``.
        converged: Whether it settled; true for ``exact``.
    """

    probability: Tensor
    mean: Tensor
    log_evidence: float
    inference: str
    converged: bool


def select_variables(
    data: Data, prior: SupportPrior, *, slab: float, spike: float, inference: str = "auto"
) -> Selection:
    """Inclusion probabilities of the weights of a regression.

    Args:
        data: Design, targets and noise precision.
        prior: Support prior over the ``n`` weights in order.
        slab: Precision of a needed weight.
        spike: Precision of one that is not; higher.
        inference: One of those above. ``auto`` is ``exact`` for up to 16 weights, else ``ep``.

    Raises:
        InputError: An unknown inference, one that does not fit the prior or the size, precisions
            that are not in order.

    Example:
        >>> from probcomp.inference import Data, select_variables
        >>> from probcomp.priors import Chain
        >>> x = torch.randn(20, 10)  # [samples, n]
        >>> data = Data(x, x[:, 0] - x[:, 1], noise_precision=4.0)
        >>> found = select_variables(data, Chain(0.1, 0.3), slab=1.0, spike=400.0)
        >>> found.probability.shape
        torch.Size([10])
    """
    count = data.x.shape[1]
    if inference == "auto":
        inference = "exact" if count <= EXACT else "ep"
    if inference not in _INFERENCES:
        raise InputError(unknown("inference", inference, ["auto", *_INFERENCES]))
    if not 0 < slab < spike < math.inf:
        raise InputError(f"precisions must satisfy 0 < slab < spike, got {slab} and {spike}")
    if prior.event_dim != 1:
        raise InputError(f"a regression's weights are a row, {type(prior).__name__} is for grids")
    return _INFERENCES[inference](data, prior, slab, spike)


def _constant(data: Data) -> float:
    """``ln p(y | w = 0)``."""
    scale = len(data.y) * math.log(data.noise_precision / (2 * math.pi))
    return 0.5 * (scale - data.noise_precision * float(data.y.double().square().sum()))


def _exact(data: Data, prior: SupportPrior, slab: float, spike: float) -> Selection:
    count = data.x.shape[1]
    if count > MOST_EXACT:
        raise InputError(
            f"all supports of {count} weights are too many: exact is for up to {MOST_EXACT}; use ep"
        )
    sites = torch.arange(count)
    log, means, kept = [], [], []
    for numbers in torch.arange(2**count).split(AT_ONCE):
        support = (numbers[:, None] >> sites & 1).double()
        precision = torch.where(support > 0, slab, spike).double()
        root = torch.linalg.cholesky(data.gram + torch.diag_embed(precision))
        mean = torch.cholesky_solve(data.linear[:, None], root)[..., 0]
        occam = 0.5 * precision.log().sum(1) - root.diagonal(dim1=-2, dim2=-1).log().sum(1)
        log.append(prior.log_prob(support) + occam + 0.5 * mean @ data.linear)
        means.append(mean)
        kept.append(support)
    score = torch.cat(log)
    weight = torch.softmax(score, 0)
    evidence = float(score.logsumexp(0)) + _constant(data)
    return Selection(weight @ torch.cat(kept), weight @ torch.cat(means), evidence, "exact", True)


def _ep(data: Data, prior: SupportPrior, slab: float, spike: float) -> Selection:
    # The normal equations' own solution where columns depend on each other.
    weight = (torch.linalg.pinv(data.gram, hermitian=True) @ data.linear)[None]
    samples, count = data.x.shape
    fixed = min(CONDITIONED if samples >= count else CONDITIONED_OF_FEW, count)
    found = ep_conditioned(
        Quadratic(weight, data.gram, 0.0), prior=prior, slab=slab, spike=spike, supports=fixed
    )
    evidence = found.log_evidence + _constant(data)
    return Selection(found.probability, found.mean, evidence, "ep", found.converged)


def _joint(data: Data, prior: SupportPrior, slab: float, spike: float) -> Selection:
    found = joint_chain(data, prior, slab=slab, spike=spike)
    return Selection(found.probability, found.mean, found.log_evidence, "joint", found.converged)


def _turbo(data: Data, prior: SupportPrior, slab: float, spike: float) -> Selection:
    found = turbo(GaussianRegression(data, slab, spike), prior, size=(data.x.shape[1],))
    bound = found.bounds[-1]
    return Selection(found.probability, found.weights.mean, bound, "turbo", found.converged)


_INFERENCES: dict[str, Callable[[Data, SupportPrior, float, float], Selection]] = {
    "exact": _exact,
    "ep": _ep,
    "joint": _joint,
    "turbo": _turbo,
}
