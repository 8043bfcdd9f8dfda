r"""Sparse variational dropout: Molchanov, Ashukha and Vetrov (2017), ICML.

Prior :math:`p(|w|) \propto 1/|w|`; posterior :math:`q(w) = N(\mu, \sigma^2)` with
:math:`\alpha = \sigma^2/\mu^2`; objective the evidence lower bound with the divergence of eq. 14,
additive noise (eq. 11) and local reparameterisation; a weight goes when
:math:`\ln\alpha > 3` (section 4.3: a dropout rate above 0.95).

Departures: training starts from a pretrained network and lasts tens of epochs, so log deviations
have a larger step than weights; ``log sigma^2`` is not clipped against the weight in training.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.inference.baselines.divergences import log_uniform, log_uniform_slope
from probcomp.inference.baselines.engine import Fit, Schedule
from probcomp.inference.baselines.precision import layer_bits
from probcomp.inference.baselines.preparing import (
    Setting,
    finish,
    give_posterior,
    run,
    seeded,
    working_copy,
)
from probcomp.inference.baselines.readout import Pruned, cut, settle
from probcomp.inference.training.layers import from_bayesian

TINY = 1e-16
"""Added to squared means: a mean of exactly zero has an infinite dropout rate."""


@dataclass(frozen=True, kw_only=True)
class SparseVDConfig(Schedule):
    """Settings of sparse variational dropout.

    Attributes:
        threshold: Weights with ``ln alpha`` above this go.
        log_variance: Log of the initial posterior variance.
    """

    threshold: float = 3.0
    log_variance: float = -10.0


class LogUniformWeights:
    """The log-uniform divergence over the weights of Bayesian layers."""

    def __init__(self, layers: dict[str, Any]) -> None:
        self.layers = layers

    def log_alpha(self) -> dict[str, Tensor]:
        """``ln(sigma^2 / mu^2)`` of every weight."""
        return {name: _log_alpha(layer) for name, layer in self.layers.items()}

    def value(self) -> Tensor:
        """The divergence, [] in nats."""
        return torch.stack([log_uniform(a).sum() for a in self.log_alpha().values()]).sum()

    @torch.no_grad()
    def add_gradient(self, pull: float) -> None:
        """Chain rule through ``ln alpha = 2 ln sigma - ln mu^2``."""
        for layer in self.layers.values():
            if layer.weight.grad is None:  # the loss did not reach the layer
                continue
            slope = log_uniform_slope(_log_alpha(layer)).mul_(2 * pull)
            layer.weight_log_sigma.grad.add_(slope)
            mean = layer.weight
            # d ln mu^2 / d mu = 2 mu / (mu^2 + tiny)
            layer.weight.grad.addcdiv_(slope.mul_(mean), mean.square().add_(TINY), value=-1)

    def after_step(self) -> None:
        """Nothing to bring back."""


def sparse_vd(setting: Setting, config: SparseVDConfig | None = None) -> Pruned:
    """Train with sparse variational dropout and prune.

    Raises:
        InputError: The model has no layer to prune, or the checkpoint is of another run.
        BudgetError: The budget is out of reach.
        DivergenceError: The loss is not finite.
    """
    config = config or SparseVDConfig()
    with seeded(setting.seed) as noise:
        model, names = working_copy(setting)
        layers = give_posterior(model, names, noise, config.log_variance)
        term = LogUniformWeights(layers)
        fit = Fit(model, setting.batches, setting.loss, config, noise, terms=[term])
        history = run(fit, setting, config)
        with torch.no_grad():
            scores = {name: -a for name, a in term.log_alpha().items()}
            variance = {n: torch.exp(2 * m.weight_log_sigma) for n, m in layers.items()}
        from_bayesian(model)
        masks, keep, shift = cut(
            scores,
            dict.fromkeys(scores, -config.threshold),
            lambda alive: settle(model, alive, setting.units),
            setting.limit,
        )
        bits = {n: layer_bits(model.get_parameter(n).detach(), v, masks[n])
                for n, v in variance.items()}  # fmt: skip
        refitted = finish(model, setting, config, masks, keep)
    meta = {
        "method": "sparse-vd",
        "rule": f"ln alpha <= {config.threshold - shift:.4g}",
        "threshold": config.threshold - shift,
        "bits": bits,
        "refit_nll": refitted,
        "log_alpha_median": {n: float(-s.median()) for n, s in scores.items()},
    }
    return Pruned(model=model, masks=masks, keep=keep, history=history, meta=meta)


def _log_alpha(layer: Any) -> Tensor:
    return 2 * layer.weight_log_sigma - torch.log(layer.weight.square() + TINY)


DROPOUT_RATE_AT_3 = math.exp(3) / (1 + math.exp(3))
"""``alpha / (1 + alpha)`` at the threshold of the publication: 0.953."""
