r"""What outputs mean: likelihoods, and probes whose gradients average to the Fisher matrix.

For outputs ``z`` with a likelihood ``p(y | z)`` the Fisher matrix at the outputs is
:math:`F = E_{y \sim p(\cdot|z)}[\nabla \ln p\, \nabla \ln p^\top]`, with ``y`` drawn from the
*model's own* prediction, not from the data (Kunstner, Balles and Hennig 2019, arXiv 1905.12558).
Outputs in half precision are scored in single: what removals cost is less than its rounding.
A probe is a scalar whose gradient has that matrix as its mean of outer products; pulled back to a
read-out it gives the matrix ``G`` of `probcomp.evidence.collect.Statistics.metric`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.evidence.products import at_least_single

IGNORED = -100
"""The label of positions that do not count, as PyTorch and Transformers have it."""


class Likelihood(Protocol):
    """How outputs are scored against targets, in nats for each `unit`."""

    @property
    def unit(self) -> str:
        """What a nat is counted for: ``sample`` or ``token``."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood over the units of a batch (up to a constant)."""
        ...

    def units(self, outputs: Tensor, targets: Tensor) -> int:
        """How many units a batch has."""
        ...

    def divergence(self, outputs: Tensor, dense: Tensor, targets: Tensor) -> Tensor:
        """Mean divergence of the outputs from the dense model's, nats a unit; never negative, and
        zero where nothing counts.

        It is the loss increase on targets that the dense model's own prediction would draw, with
        no noise from drawing them.
        """
        ...

    def probe(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """A scalar, summed over units, whose gradients have the Fisher matrix as their mean."""
        ...


@dataclass(frozen=True)
class Gaussian:
    r"""Real outputs with one deviation: :math:`\tfrac12 \lVert z - y \rVert^2 / \sigma^2` a sample.

    Attributes:
        deviation: ``sigma``, in units of the outputs.
    """

    deviation: float = 1.0
    unit: str = "sample"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape == (*targets.shape, 1):
            targets = targets[..., None]
        if outputs.shape != targets.shape:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape "
                f"{tuple(targets.shape)}"
            )
        error = (at_least_single(outputs) - at_least_single(targets)) / self.deviation
        return 0.5 * error.square().flatten(1).sum(1).mean()

    def units(self, outputs: Tensor, targets: Tensor) -> int:
        return len(outputs)

    def divergence(self, outputs: Tensor, dense: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, dense)

    def probe(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Hutchinson's probe: the gradient at the outputs is a standard normal over ``sigma``."""
        noise = torch.randn(outputs.shape, generator=generator).to(outputs)
        return (outputs * noise).sum() / self.deviation


@dataclass(frozen=True)
class Categorical:
    """Classes: logits [samples, classes], or [samples, positions, classes] with labels to match.

    Attributes:
        shift: Whether position ``t`` predicts the label at ``t + 1`` (causal language models).
        soft: Whether targets are probabilities [samples, classes] instead of integers.
        unit: What a nat is counted for: ``sample`` or ``token``.
        softness: Divides logits in probes and divergences (not in the loss). A classifier is surer
            of images that it was trained on than of new ones; above 1, calibration on such images
            stands for new ones (as in distillation, Hinton, Vinyals and Dean 2015).
    """

    shift: bool = False
    soft: bool = False
    unit: str = "sample"
    softness: float = 1.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.soft:
            # relative to the targets' own entropy, so that the dense model scores zero
            outputs, targets = at_least_single(outputs), at_least_single(targets)
            entropy = torch.special.entr(targets).sum(-1)
            return (F.cross_entropy(outputs, targets, reduction="none") - entropy).mean()
        logits, labels = self._flat(outputs, targets)
        return F.cross_entropy(logits, labels)

    def divergence(self, outputs: Tensor, dense: Tensor, targets: Tensor) -> Tensor:
        rows = (self.rows(z, targets) / self.softness for z in (outputs, dense))
        found, wanted = (z.log_softmax(-1) for z in rows)
        lost = (wanted.exp() * (wanted - found)).sum(-1)
        return lost.sum().clamp_min(0) / max(1, lost.numel())  # rounding may be all there is

    def units(self, outputs: Tensor, targets: Tensor) -> int:
        return len(self.rows(outputs, targets))

    def rows(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits of the units, one a row, [units, classes]."""
        return at_least_single(outputs) if self.soft else self._flat(outputs, targets)[0]

    def probe(self, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        r"""With signs ``e`` and probabilities ``p``, :math:`z_c = \sqrt{p_c} e_c - p_c
        \sum_k \sqrt{p_k} e_k` has the Fisher matrix ``diag(p) - p p^T`` as its covariance.

        Classes drawn from ``p`` would give the same mean, but all of it from the few draws that
        are improbable.
        """
        logits = self.rows(outputs, targets) / self.softness
        p = logits.detach().softmax(-1)
        signs = torch.randint(2, p.shape, generator=generator).to(p) * 2 - 1
        signed = p.sqrt() * signs
        return (logits * (signed - p * signed.sum(-1, keepdim=True))).sum()

    def _flat(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels of the units: positions that count, one a row."""
        if outputs.shape[:-1] != targets.shape:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} do not fit labels of shape "
                f"{tuple(targets.shape)}"
            )
        if self.shift:
            outputs, targets = outputs[:, :-1], targets[:, 1:]
        counted = targets != IGNORED
        return at_least_single(outputs[counted]), targets[counted]
