r"""The joint form under a chain of supports, by exact coordinate ascent on one bound.

The posterior is :math:`q(s)\prod_n q(w_n \mid s_n)` with a Markov chain

.. math:: q(s) = q(s_1) \prod_t q(s_{t+1} \mid s_t)

whose transitions are free. The likelihood's cross terms use its pair probabilities, which are exact
for any two sites, so that the bound

.. math:: F = E_q[\ln p(y|w)] - \sum_n E_{q(s_n)} KL(q(w_n|s_n) \| p(w_n|s_n)) - KL(q(s) \| p(s))

is a true one, and each factor's update is its maximum given the others:

.. math:: m_{nk} = v_{nk}\Bigl(\beta x_n^\top y - \beta\sum_{j \ne n} x_n^\top x_j\,
              E[w_j \mid s_n = k]\Bigr),\qquad v_{nk} = \frac1{\beta x_n^\top x_n + \alpha_k}

and :math:`q(b \mid a) \propto p(b \mid a) \exp(R_{t+1}(b) - c_t(a, b))`, with ``R`` what the sites
from ``t + 1`` on add to the bound given ``s_{t+1} = b`` and ``c`` the cross terms over the cut,
which factorise given the two states beside it (structured variational inference: Saul and Jordan
1996, "Exploiting tractable substructures in intractable networks").

One optimum of this form may be sure of the wrong one of two alike columns. So each inclusion
probability comes from a split (Jaakkola and Jordan 1998, "Improving the mean field approximation
via the use of mixture distributions"): with the support fixed on and off all else is fitted anew,
and the two bounds on :math:`\ln p(y, s_n)` decide,

.. math:: P(s_n = 1 \mid y) \approx \sigma(F_{n1} - F_{n0}),\qquad
          F \le \ln(e^{F_{n0}} + e^{F_{n1}}) \le \ln p(y).

The first inequality holds at the optima. Of several starts the one with the highest bound counts.

Notes:
    Given the supports the weights are independent, so two columns that are all but the same are
    paid for too dearly when both are on: the splits lean to "off", by 0.5 for twins that differ by
    a hundredth, and hundreds of sweeps are needed. `probcomp.inference.quadratic.ep_conditioned`
    holds there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.regression import Data
from probcomp.priors.base import SupportPrior
from probcomp.priors.chain import Chain
from probcomp.priors.independent import Independent

FIXED = 200.0
"""Nats against the state that a split excludes; ``e^-200`` of it stays."""

LEAST = -200.0
"""Smallest log probability of a transition, so that no division is by zero."""

STARTS = (None, 0.999, 0.001)
"""Where supports start: the prior, all on, all off."""


@dataclass(frozen=True)
class Joint:
    """Where the ascent ended; ``n`` supports.

    Attributes:
        probability: Inclusion probabilities by the splits, [n]; `marginal` without splits.
        marginal: Inclusion probabilities under the best single optimum, [n].
        mean: Posterior means of the weights under it, [n].
        bounds: Its bound after each sweep, nats.
        log_evidence: The highest bound on the log evidence that was found, nats.
        converged: Whether every ascent stopped moving.
    """

    probability: Tensor
    marginal: Tensor
    mean: Tensor
    bounds: tuple[float, ...]
    log_evidence: float
    converged: bool


def joint_chain(
    data: Data,
    prior: SupportPrior,
    *,
    slab: float,
    spike: float,
    split: bool = True,
    starts: Sequence[float | None] = STARTS,
    max_iterations: int = 500,
    tolerance: float = 1e-8,
) -> Joint:
    """Inclusion probabilities of a sparse regression in the joint form.

    All splits and starts run side by side: ``k (2 n + 1)`` ascents of ``n^3`` operations a sweep,
    with ``k`` starts, and ``32 k (2 n + 1) n^2`` bytes three times: half a gibibyte at a hundred
    weights, for which it is meant at most.

    Args:
        data: The regression, ``n`` weights.
        prior: `Chain` or `Independent` with plain numbers for parameters.
        slab: Precision of a kept weight.
        spike: Precision of a removed weight.
        split: Whether each probability comes from two bounds.
        starts: Inclusion probabilities that supports start at; ``None`` is the prior.
        max_iterations: Limit on sweeps.
        tolerance: Stop when no bound rises by more, nats.

    Raises:
        InputError: Another prior, or options that do not fit.
    """
    if not 0 < slab < spike < math.inf:
        raise InputError(f"precisions must satisfy 0 < slab < spike, got {slab} and {spike}")
    if max_iterations < 1 or not tolerance > 0 or not starts:
        raise InputError(
            "max_iterations and tolerance must be positive and starts not empty, got "
            f"{max_iterations}, {tolerance} and {starts!r}"
        )
    if not all(start is None or 0 < start < 1 for start in starts):
        raise InputError(f"starts must be None or in (0, 1), got {starts!r}")
    count = data.x.shape[1]
    bias = torch.zeros(2 * count + 1 if split else 1, count, 2, dtype=torch.double)
    if split:
        for n in range(count):
            bias[1 + 2 * n, n, 1] = bias[2 + 2 * n, n, 0] = -FIXED
    runs = _Runs(data, prior, (spike, slab), bias.repeat(len(starts), 1, 1))
    runs.start([start for start in starts for _ in range(len(bias))])
    rows, converged = [runs.bound()], False
    for _ in range(max_iterations):
        runs.supports()
        runs.means()
        rows.append(runs.bound())
        converged = bool((rows[-1] - rows[-2] < tolerance).all())
        if converged:
            break
    history = torch.stack(rows).unflatten(1, (len(starts), -1))
    best, which = history[-1].max(0)
    row = int(which[0]) * len(bias)
    marginal = runs.marginal[row]
    probability, evidence = marginal[:, 1], float(best[0])
    if split:
        off, on = best[1::2], best[2::2]
        probability = torch.sigmoid(on - off)
        evidence = max(evidence, float(torch.logaddexp(on, off).max()))
    return Joint(
        probability,
        marginal[:, 1],
        (marginal * runs.mean[row]).sum(-1),
        tuple(history[:, int(which[0]), 0].tolist()),
        evidence,
        converged,
    )


class _Runs:
    """Ascents side by side, ``r`` of them; state 0 is the spike, 1 the slab.

    Attributes:
        first: ``ln q(s_1)``, [r, 2].
        step: ``ln q(s_{t+1} | s_t)``, [r, n - 1, 2, 2].
        mean: ``E[w_n | s_n]``, [r, n, 2].
        variance: ``Var[w_n | s_n]``, [n, 2].
        marginal: ``q(s_n)``, [r, n, 2].
        between: ``q(s_j = l | s_n = k)`` as [r, n, j, k, l].
    """

    def __init__(
        self, data: Data, prior: SupportPrior, precision: tuple[float, float], bias: Tensor
    ) -> None:
        self.gram, self.linear = data.gram, data.linear
        self.prior_first, self.prior_step = _tables(prior)
        self.precision = torch.tensor(precision, dtype=torch.double)
        self.variance = 1 / (self.gram.diagonal()[:, None] + self.precision)
        self.bias = bias
        square = data.noise_precision * float(data.y.double().square().sum())
        scale = len(data.y) * math.log(data.noise_precision / (2 * math.pi))
        self.constant = 0.5 * (scale - square)

    def start(self, probabilities: Sequence[float | None]) -> None:
        """Supports at the given probabilities, the prior for None; means after one pass."""
        runs, count = self.bias.shape[:2]
        self.first = self.prior_first.repeat(runs, 1)
        self.step = self.prior_step.repeat(runs, count - 1, 1, 1)
        for row, p in enumerate(probabilities):
            if p is not None:
                log = torch.tensor([1 - p, p], dtype=torch.double).log()
                self.first[row], self.step[row] = log, log
        self.mean = torch.zeros(runs, count, 2, dtype=torch.double)
        self._look()
        self.means()

    def means(self) -> None:
        """``m_nk``, weight after weight."""
        for n in range(self.mean.shape[1]):
            others = (self.between[:, n] * self.mean[:, :, None]).sum(-1)  # [r, j, k]
            cross = (self.gram[n, :, None] * others).sum(1) - self.gram[n, n] * self.mean[:, n]
            self.mean[:, n] = (self.linear[n] - cross) * self.variance[n]
        self.value, self.seen = self._values()

    def supports(self) -> None:
        """``q(s_1)``, then each transition, from the left; what lies right is as before."""
        self.first = _normal(self.prior_first + self.value[:, 0])
        now, left = self.first.exp(), self.mean[:, :1]
        for t in range(self.mean.shape[1] - 1):
            right = self.gram[: t + 1, t + 1 :] @ self.seen[:, t + 1, t + 1 :]  # [r, i, b]
            cross = left.mT @ right
            self.step[:, t] = _normal(self.prior_step + self.value[:, t + 1, None] - cross)
            both = now[:, :, None] * self.step[:, t].exp()
            now = both.sum(1)
            left = torch.cat([left @ (both / now[:, None]), self.mean[:, t + 1 : t + 2]], 1)
        self._look()

    def bound(self) -> Tensor:
        """``F`` of each run, [r]; after `means`."""
        first = self.first.exp() * (self.prior_first - self.first + self.value[:, 0])
        return self.constant + first.sum(-1)

    def _look(self) -> None:
        """Marginals and the conditionals of any two sites."""
        runs, count = self.bias.shape[:2]
        step = self.step.exp()
        between = torch.eye(2, dtype=torch.double).repeat(runs, count, count, 1, 1)
        marginal = [self.first.exp()]
        for t in range(count - 1):
            marginal.append((marginal[-1][:, None] @ step[:, t])[:, 0])
        self.marginal = torch.stack(marginal, 1)
        ahead = step
        for gap in range(1, count):
            if gap > 1:
                ahead = ahead[:, :-1] @ step[:, gap - 1 :]
            at = torch.arange(count - gap)
            back = self.marginal[:, :-gap, :, None] * ahead / self.marginal[:, gap:, None]
            between[:, at, at + gap], between[:, at + gap, at] = ahead, back.mT
        self.between = between

    def _values(self) -> tuple[Tensor, Tensor]:
        """``R_n(k)`` [r, n, k], and ``E[w_j | s_n = k]`` [r, n, j, k]."""
        mean, variance, linear = self.mean, self.variance, self.linear[:, None]
        square = mean.square() + variance
        scaled = self.precision * variance
        apart = 0.5 * (self.precision * square - scaled.log() - 1)
        own = linear * mean - 0.5 * self.gram.diagonal()[:, None] * square - apart + self.bias
        seen = (self.between * mean[:, None, :, None]).sum(-1)
        after = (self.gram.triu(1)[:, :, None] * seen).sum(2)  # over j > n
        value = own - mean * after
        for t in range(mean.shape[1] - 2, -1, -1):
            change = self.prior_step - self.step[:, t] + value[:, t + 1, None]
            value[:, t] += (self.step[:, t].exp() * change).sum(-1)
        return value, seen


def _normal(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).clamp_min(LEAST)


def _tables(prior: SupportPrior) -> tuple[Tensor, Tensor]:
    """``ln p(s_1)`` [2] and ``ln p(s_{t+1} | s_t)`` [2, 2]."""
    if isinstance(prior, Independent):
        on = [prior.density] * 3
    elif isinstance(prior, Chain):
        on = [prior.stationary, prior.p01, 1 - prior.p10]
    else:
        raise InputError(
            f"the joint form needs a Chain or Independent prior, got {type(prior).__name__}"
        )
    if not all(isinstance(p, float) for p in on):
        raise InputError("the joint form needs a prior with plain numbers for parameters")
    table = torch.tensor([[1 - p, p] for p in on], dtype=torch.double).log()
    return table[0], table[1:]
