r"""L0 regularisation by hard concrete gates: Louizos, Welling and Kingma (2018), ICLR.

A gate for each group of weights (section 4.1 of the publication prunes whole input neurons and
feature maps):

.. math:: s = \sigma\bigl((\ln u - \ln(1 - u) + \ln\alpha)/\beta\bigr),\quad
          z = \min(1, \max(0, s(\zeta - \gamma) + \gamma))

with ``beta = 2/3``, ``gamma = -0.1``, ``zeta = 1.1`` (eq. 10, 11), and the penalty
:math:`\lambda \sum_j |g_j|\, P(z_j \neq 0)` (eq. 12), where :math:`|g_j|` counts the weights of
the group. In evaluation the gate is
:math:`\min(1, \max(0, \sigma(\ln\alpha)(\zeta - \gamma) + \gamma))` (eq. 13), and a group goes when
that is zero.

Departures: training starts from a pretrained network with open gates, and the gates have a larger
step than the weights. The publication counts the weights that read a unit, and has a price for
each layer set by hand; by default all weights that a unit takes with it are counted here, at one
price, which is what they cost. The Gaussian prior over weights is not multiplied by the gate's
probability.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.divergences import hard_concrete_open
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.gating import Gate, logit
from probcomp.inference.baselines.groups import fit_gates
from probcomp.inference.baselines.places import Place
from probcomp.inference.baselines.preparing import Setting
from probcomp.inference.baselines.readout import Pruned

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class L0Config(Schedule):
    """Settings of the hard concrete gates.

    Attributes:
        price: ``lambda``, nats for each weight kept; the publication's ``lambda / N`` for a mean
            loss over ``N`` samples.
        count: What ``|g|`` counts: the weights that read a unit, as in the publication, or all
            parameters that are ``owned`` by it and go with it.
        prices: Place name to its own price, as in the publication's "sep" runs.
        open_probability: Where the gates start: the median of the unstretched gate.
        weight_decay: Precision of a Gaussian prior over the weights, for each sample.
        beta: Temperature.
        low: Lower end of the stretched interval.
        high: Upper end.
        each_sample: Whether each sample has its own draw of the gates.
    """

    epochs: int = 25
    price: float = 0.2
    count: Literal["owned", "reading"] = "owned"
    prices: Mapping[str, float] = field(default_factory=dict)
    open_probability: float = 0.9
    weight_decay: float = 5e-4
    beta: float = 2 / 3
    low: float = -0.1
    high: float = 1.1
    each_sample: bool = True


class HardConcreteGate(Gate):
    """Hard concrete gates of one place."""

    def __init__(self, place: Place, config: L0Config) -> None:
        super().__init__(place)
        self.config = config
        self.each_sample = config.each_sample
        self.sizes = place.owned if config.count == "owned" else place.fan
        self.price = config.prices.get(place.name, config.price) * self.sizes.float()
        self.log_alpha = nn.Parameter(torch.full((place.size,), logit(config.open_probability)))
        # The evaluation gate is zero when sigma(ln alpha) (zeta - gamma) + gamma <= 0.
        self.threshold = logit(-config.low / (config.high - config.low))

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(rows, self.place.size, generator=generator).clamp_(EPS, 1 - EPS)
        noise = torch.log(u) - torch.log1p(-u)
        return self._stretch(torch.sigmoid((noise + self.log_alpha) / self.config.beta))

    def mean(self) -> Tensor:
        return self._stretch(torch.sigmoid(self.log_alpha)).detach()

    def open(self) -> Tensor:
        """``P(z != 0)``, [size]."""
        return hard_concrete_open(
            self.log_alpha, self.config.beta, self.config.low, self.config.high
        )

    def divergence(self) -> Tensor:
        return (self.price * self.open()).sum()

    def score(self) -> Tensor:
        return self.log_alpha.detach()

    def _stretch(self, s: Tensor) -> Tensor:
        return (s * (self.config.high - self.config.low) + self.config.low).clamp(0, 1)


def l0(setting: Setting, config: L0Config | None = None) -> Pruned:
    """Train with hard concrete gates on groups and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `fit_gates`.
    """
    config = config or L0Config()

    def about(gates: Sequence[Any]) -> dict[str, Any]:
        with torch.no_grad():
            expected = {g.place.name: float((g.sizes * g.open()).sum()) for g in gates}
        return {"expected_weights": expected}

    return fit_gates(
        setting,
        config,
        "l0",
        lambda place: HardConcreteGate(place, config),
        decay=config.weight_decay,
        about=about,
    )
