r"""VIBNet, the variational information bottleneck: Dai, Zhu, Guo and Wipf (2018), ICML.

Each unit's value is multiplied by :math:`z \sim N(\mu, \sigma^2)`; what the unit passes on costs

.. math:: \gamma\, \tfrac12 \ln(1 + \mu^2/\sigma^2)

nats (eq. 11: the divergence from a zero-mean Gaussian at its best variance), and a unit goes when
:math:`\ln(\sigma^2/\mu^2) > 0`, that is when noise drowns it. The authors weight the cost against a
mean loss by ``kl_fac`` of 1e-6 to 3e-5 and by a multiplier for each layer; here the factor is
``kl_weight`` over the samples.

Departures: one multiplier for all layers, unless ``multipliers`` names others; pretrained start.

As a Pyro model and guide: ``programs.baseline_program("vibnet", module)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.divergences import bottleneck
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.groups import fit_gates
from probcomp.inference.baselines.places import Place
from probcomp.inference.baselines.preparing import Setting
from probcomp.inference.baselines.readout import Pruned

TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class VIBConfig(Schedule):
    """Settings of the information bottleneck.

    ``kl_weight`` on 10,000 held-out training images of MNIST, LeNet-300-100, one seed, 12 epochs
    and a refit of 4 (``probcomp bench baseline_choices``; the dense network has 1.78 %):

    | weight | error | units | non-zeros |
    |---|---|---|---|
    | 10 | 1.83 % | 307-175-80 | 68,525 |
    | 30 | 2.02 % | 205-121-60 | 32,665 |
    | 100 | 2.90 % | 101-71-28 | 9,439 |
    | 300 | 4.66 % | 60-36-17 | 2,942 |

    30 keeps the fewest weights of those within 0.3 points of the dense network, the rule that was
    fixed before.

    Attributes:
        threshold: Units with ``ln(sigma^2 / mu^2)`` above this go.
        log_variance: Log of the initial variance of the scales.
        multipliers: Place name to the factor on its cost.
        weight_decay: Precision of a Gaussian prior over the weights, for each sample.
    """

    epochs: int = 25
    kl_weight: float = 30.0
    warm_up: float = 0.5
    threshold: float = 0.0
    log_variance: float = -9.0
    multipliers: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0


class BottleneckGate(Gate):
    """Gaussian scales of one place."""

    def __init__(self, place: Place, config: VIBConfig) -> None:
        super().__init__(place)
        self.threshold = -config.threshold
        self.multiplier = config.multipliers.get(place.name, 1.0)
        self.location = nn.Parameter(torch.ones(place.size))
        self.log_sigma = nn.Parameter(torch.full((place.size,), 0.5 * config.log_variance))

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows, self.place.size, generator=generator)
        return self.location + noise * torch.exp(self.log_sigma)

    def mean(self) -> Tensor:
        return self.location.detach()

    def variance(self) -> Tensor:
        return torch.exp(2 * self.log_sigma).detach()

    def divergence(self) -> Tensor:
        return self.multiplier * bottleneck(self.location, self.log_sigma).sum()

    def score(self) -> Tensor:
        return (torch.log(self.location.square() + TINY) - 2 * self.log_sigma).detach()


def vibnet(setting: Setting, config: VIBConfig | None = None) -> Pruned:
    """Train with an information bottleneck on units and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `fit_gates`.
    """
    config = config or VIBConfig()
    return fit_gates(
        setting,
        config,
        "vibnet",
        lambda place: BottleneckGate(place, config),
        decay=config.weight_decay,
    )
