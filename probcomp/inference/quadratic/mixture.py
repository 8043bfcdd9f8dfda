r"""A weight with a Gaussian slab or spike under a Gaussian cavity: evidence and moments.

With cavity precision :math:`\lambda` and linear term :math:`\eta`, and :math:`\alpha_1` the slab's,
:math:`\alpha_0` the spike's precision,

.. math:: l = \tfrac12\ln\frac{\alpha_1(\lambda + \alpha_0)}{\alpha_0(\lambda + \alpha_1)}
          + \tfrac12\eta^2\Bigl[\frac1{\lambda + \alpha_1} - \frac1{\lambda + \alpha_0}\Bigr],
          \qquad m_k = \frac{\eta}{\lambda + \alpha_k}
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Precisions:
    """Slab and spike precision, in units that broadcast against ``[do, di]``.

    Attributes:
        slab: ``alpha_1``, ``[1, 1]`` or ``[do, 1]``.
        spike: ``alpha_0``, same shape.
    """

    slab: Tensor
    spike: Tensor

    def evidence(self, cavity: Tensor, linear: Tensor) -> Tensor:
        """``l``, nats."""
        wide, narrow = cavity + self.slab, cavity + self.spike
        occam = (self.slab * narrow).log() - (self.spike * wide).log()
        return 0.5 * (occam + linear.square() * (1 / wide - 1 / narrow))

    def moments(self, cavity: Tensor, linear: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the mixture."""
        wide, narrow = 1 / (cavity + self.slab), 1 / (cavity + self.spike)
        off = 1 - probability
        mean = linear * (probability * wide + off * narrow)
        gap = linear * (wide - narrow)
        variance = probability * wide + off * narrow + probability * off * gap.square()
        return mean, variance

    def slab_square(self, cavity: Tensor, linear: Tensor) -> Tensor:
        """``E[w^2 | s = 1]``."""
        wide = 1 / (cavity + self.slab)
        return wide + (linear * wide).square()
