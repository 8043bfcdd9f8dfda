r"""What a weight's posterior says about its support, in closed form.

The three-layer prior is :math:`s \to \rho \to w`: :math:`w \sim N(0, 1/\rho)`, with
:math:`\rho \sim \mathrm{Gamma}(a, b)` where the weight is kept (slab) and
:math:`\mathrm{Gamma}(\bar a, \bar b)` where it is not (spike); shape and rate
(Xia, Tsang and Lau 2023, "Structured Bayesian compression for deep neural networks based on the
turbo-VBI approach", IEEE TSP 71).

Every form takes the moments of the weights and returns the evidence ``l`` for being kept, in nats,
and the precision of the Gaussian that the next weight step uses as its prior. The prior log-odds
``psi`` enter the precision only, never ``l``: passing ``l`` on counts nothing twice.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from probcomp.errors import InputError

CAVITY_FLOOR = 1e-9
"""Smallest precision a likelihood message may have; below it the message carries nothing."""


@dataclass(frozen=True)
class Scale:
    """Scale of a layer's weights.

    Attributes:
        slab: Mean square of a kept weight.
        kappa: Mean square of a removed weight over that of a kept one, in (0, 1).
    """

    slab: float
    kappa: float


@dataclass(frozen=True)
class Weights:
    """Moments of ``q(w)`` of one parameter; all tensors have its shape.

    Attributes:
        mean: Posterior mean.
        variance: Posterior variance.
        precision: Precision of the Gaussian prior under which they were found.
        probability: Current ``q(s=1)``; only the factorised form reads it.
    """

    mean: Tensor
    variance: Tensor
    precision: Tensor
    probability: Tensor

    @property
    def square(self) -> Tensor:
        """``E[w^2]``."""
        return self.mean.square() + self.variance

    @property
    def determined_square(self) -> Tensor:
        r"""``E[w^2]`` with only the share of the variance that the data determined.

        The share is MacKay's (1992, "Bayesian interpolation", eq. 4.9) number of well-determined
        parameters :math:`\gamma = 1 - \rho\sigma^2`: 0 for a weight as wide as its prior.
        """
        share = (1 - self.precision * self.variance).clamp(0, 1)
        return self.mean.square() + share * self.variance


@dataclass(frozen=True)
class Likelihood:
    r"""Quadratic log-likelihood of each weight of a parameter, the others at their means.

    .. math:: \eta w - \tfrac12 \lambda w^2

    Attributes:
        curvature: ``lambda``, not negative.
        linear: ``eta``.
        measured: Evidence that was found otherwise, nats, in the place of the quadratic's.
        scale: The scale that it was found under, and holds for alone.
    """

    curvature: Tensor
    linear: Tensor
    measured: Tensor | None = None
    scale: Scale | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        """Log-likelihood less that at zero, nats."""
        return self.linear * weight - 0.5 * self.curvature * weight.square()

    def slab_mean(self, scale: Scale) -> Tensor:
        """Posterior mean of each weight under the slab."""
        return self.linear / (self.curvature + 1 / scale.slab)

    def evidence(self, scale: Scale) -> Tensor:
        """Evidence for the support, nats: a Gaussian slab against a Gaussian spike.

        Raises:
            InputError: It was measured, and under another scale.
        """
        if self.measured is not None:
            if scale != self.scale:
                raise InputError(f"evidence was measured under {self.scale}, not under {scale}")
            return self.measured
        sharp = self.curvature.clamp_min(CAVITY_FLOOR)
        slab = scale.slab
        return gaussian_evidence(sharp, self.linear, 1 / slab, 1 / (scale.kappa * slab))


@dataclass(frozen=True)
class Reading:
    """What probabilities are read from at the end.

    Attributes:
        likelihoods: Weight name to its likelihood.
        meta: JSON values for the posterior's ``meta``.
    """

    likelihoods: Mapping[str, Likelihood]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What a weight-evidence module returns.

    Attributes:
        log_odds: Evidence ``l`` for the support, nats.
        precision: ``E[rho]``, precision of the prior of the next weight step.
        divergence: ``sum_n KL`` of the weights and precisions given the supports, nats; without
            the supports' own divergence from their prior.
    """

    log_odds: Tensor
    precision: Tensor
    divergence: float


class WeightEvidence(Protocol):
    """A form of the posterior over a weight, its precision and its support."""

    def update(self, weights: Weights, psi: Tensor, scale: Scale) -> Update:
        """Evidence and next precision, given prior log-odds ``psi`` from the structure."""
        ...


def log_slab(square: Tensor, a: float, b: float) -> Tensor:
    r"""Bound on the log-density of a weight under :math:`\rho\sim\mathrm{Gamma}(a, b)`, collapsed.

    .. math:: \ln f = a\ln b - \ln\Gamma(a) + \ln\Gamma(a+1/2) - (a+1/2)\ln(b + E[w^2]/2)

    up to :math:`-\frac12\ln 2\pi`. For a known weight it is its Student-t log-density exactly.
    """
    constant = a * math.log(b) - math.lgamma(a) + math.lgamma(a + 0.5)
    return constant - (a + 0.5) * torch.log(b + 0.5 * square)


@dataclass(frozen=True)
class CollapsedGamma:
    r"""``q(w) q(rho|s) q(s)``: the precision is integrated out for each value of the support.

    .. math:: l = \ln f(a, b) - \ln f(\bar a, \bar b), \qquad
        E[\rho] = p\frac{a+1/2}{b+E[w^2]/2} + (1-p)\frac{\bar a+1/2}{\bar b+E[w^2]/2}

    with :math:`b = a v`, :math:`\bar b = \bar a\kappa v` for a slab of mean square ``v``. Given
    the moments there is one answer: the product form's dependence on its start is gone.

    The evidence is bounded: ``-1/2 ln(1/kappa)`` at zero to ``a ln(1/kappa)`` for ``a = a_spike``.

    Attributes:
        a: Slab shape.
        a_spike: Spike shape.
        well_determined: Whether a weight's variance counts only as far as the data determined it
            (`Weights.determined_square`). Without it a weight that no datum reaches keeps the
            width of whatever prior it had, and looks needed for as long as it is believed needed:
            the feedback between ``E[w^2]`` and the support has several fixed points.
        temperature: What the evidence is divided by. Above 1 a weight counts for less, and its
            neighbours for more.
    """

    a: float = 1.0
    a_spike: float = 1.0
    well_determined: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_shapes(self.a, self.a_spike)
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be positive and finite, got {self.temperature}")

    def update(self, weights: Weights, psi: Tensor, scale: Scale) -> Update:
        b, b_spike = self.a * scale.slab, self.a_spike * scale.kappa * scale.slab
        square = weights.determined_square if self.well_determined else weights.square
        slab, spike = log_slab(square, self.a, b), log_slab(square, self.a_spike, b_spike)
        log_odds = (slab - spike) / self.temperature
        p = torch.sigmoid(psi + log_odds)
        half = 0.5 * square
        precision = p * (self.a + 0.5) / (b + half)
        precision += (1 - p) * (self.a_spike + 0.5) / (b_spike + half)
        # -H(q(w)) - E[ln f]; the two constants ln 2 pi cancel, and 1/2 stays.
        kl = -0.5 * (weights.variance.log() + 1) - torch.lerp(spike, slab, p)
        return Update(log_odds, precision, float(kl.sum()))


@dataclass(frozen=True)
class JointGaussian:
    r"""``q(w|s) q(s)`` with a Gaussian slab and spike (George and McCulloch 1993).

    The weight step leaves a Gaussian whose likelihood part (its cavity) has precision
    :math:`\lambda = 1/\sigma^2 - \rho` and linear term :math:`\eta = \mu/\sigma^2`. Integrating
    the weight under slab and spike precisions :math:`\alpha_1 = 1/v`, :math:`\alpha_0 = 1/\kappa v`

    .. math:: l = \tfrac12\ln\frac{\alpha_1(\lambda+\alpha_0)}{\alpha_0(\lambda+\alpha_1)}
        + \tfrac12\eta^2\Big[\frac1{\lambda+\alpha_1} - \frac1{\lambda+\alpha_0}\Big].

    The evidence is unbounded above, and includes how sharply the data determine the weight.

    Notes:
        Exact for a weight whose likelihood is Gaussian; the weight step's ``q(w)`` stands for it.
    """

    def update(self, weights: Weights, psi: Tensor, scale: Scale) -> Update:
        slab, spike = 1 / scale.slab, 1 / (scale.kappa * scale.slab)
        sharpness = 1 / weights.variance
        linear = weights.mean * sharpness
        cavity = (sharpness - weights.precision).clamp_min(CAVITY_FLOOR)
        log_odds = gaussian_evidence(cavity, linear, slab, spike)
        p = torch.sigmoid(psi + log_odds)
        precision = p * slab + (1 - p) * spike
        square = weights.square
        kl = 0.5 * (precision * square - weights.variance.log() - 1)
        kl = kl - 0.5 * (p * math.log(slab) + (1 - p) * math.log(spike))
        return Update(log_odds, precision, float(kl.sum()))


def gaussian_evidence(cavity: Tensor, linear: Tensor, slab: float, spike: float) -> Tensor:
    """``log int N(w; 0, 1/slab) L(w) dw - log int N(w; 0, 1/spike) L(w) dw``, nats.

    Args:
        cavity: Precision of the Gaussian likelihood ``L``.
        linear: Its linear term, precision times mean.
        slab: Prior precision of a kept weight.
        spike: Prior precision of a removed weight.
    """
    wide, narrow = cavity + slab, cavity + spike
    occam = 0.5 * (math.log(slab / spike) + torch.log(narrow / wide))
    return occam + 0.5 * linear.square() * (1 / wide - 1 / narrow)


@dataclass(frozen=True)
class PaperFactorised:
    r"""``q(w) q(rho) q(s)``, the product form as published; for comparison only.

    .. math:: \tilde a = pa + (1-p)\bar a + \tfrac12, \quad
        \tilde b = pb + (1-p)\bar b + \tfrac12E[w^2], \\
        l = a\ln b - \ln\Gamma(a) + (a-1)E[\ln\rho] - bE[\rho] - (\text{the same with bars})

    with :math:`E[\rho] = \tilde a/\tilde b`, :math:`E[\ln\rho] = \psi(\tilde a) - \ln\tilde b`.
    ``complex_constants`` uses the circular complex Gaussian of its origin in channel estimation
    (+1 and :math:`E[w^2]` for +1/2 and :math:`E[w^2]/2`), which weights are not.

    Warns:
        UserWarning: On construction. For weights below the slab's scale the fixed point depends on
            the initial probability and not on the data: an exactly zero weight ends at 0.955 from
            a start of 0.5 and at 0 from a start near 0.
    """

    a: float = 1.0
    a_spike: float = 1.0
    complex_constants: bool = False

    def __post_init__(self) -> None:
        _check_shapes(self.a, self.a_spike)
        warnings.warn(
            "the factorised posterior is bistable: for small weights the result depends on its "
            "initial probability, not on the data; CollapsedGamma has no such dependence",
            UserWarning,
            stacklevel=3,
        )

    def update(self, weights: Weights, psi: Tensor, scale: Scale) -> Update:
        b, b_spike = self.a * scale.slab, self.a_spike * scale.kappa * scale.slab
        half = 1.0 if self.complex_constants else 0.5
        p, square = weights.probability, weights.square
        a_post = p * self.a + (1 - p) * self.a_spike + half
        b_post = p * b + (1 - p) * b_spike + half * square
        precision = a_post / b_post
        log_precision = torch.digamma(a_post) - b_post.log()
        log_odds = self._log_gamma(self.a, b, precision, log_precision)
        log_odds = log_odds - self._log_gamma(self.a_spike, b_spike, precision, log_precision)
        kl = 0.5 * (precision * square - weights.variance.log() - log_precision - 1)
        entropy = a_post - b_post.log() + torch.lgamma(a_post)
        entropy += (1 - a_post) * torch.digamma(a_post)
        spike = self._log_gamma(self.a_spike, b_spike, precision, log_precision)
        kl = kl - entropy - spike - torch.sigmoid(psi + log_odds) * log_odds
        return Update(log_odds, precision, float(kl.sum()))

    @staticmethod
    def _log_gamma(a: float, b: float, precision: Tensor, log_precision: Tensor) -> Tensor:
        """``E[ln Gamma(rho; a, b)]``."""
        return a * math.log(b) - math.lgamma(a) + (a - 1) * log_precision - b * precision


def _check_shapes(a: float, a_spike: float) -> None:
    if not (a > 0 and a_spike > 0 and math.isfinite(a) and math.isfinite(a_spike)):
        raise InputError(f"Gamma shapes must be positive and finite, got a={a}, a_spike={a_spike}")
