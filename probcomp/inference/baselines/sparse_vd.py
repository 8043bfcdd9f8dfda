r"""Sparse variational dropout: Molchanov, Ashukha and Vetrov (2017), ICML.

Prior :math:`p(|w|) \propto 1/|w|`; posterior :math:`q(w) = N(\mu, \sigma^2)` with
:math:`\alpha = \sigma^2/\mu^2`; objective the evidence lower bound with the divergence of eq. 14,
additive noise (eq. 11) and local reparameterisation; a weight goes when
:math:`\ln\alpha > 3` (section 4.3: a dropout rate above 0.95).

Departures: training starts from a pretrained network and lasts tens of epochs, so log deviations
have a larger step than weights; ``log sigma^2`` is not clipped against the weight in training.

As a Pyro model and guide: ``programs.baseline_program("sparse-vd", module)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.inference.baselines.divergences import log_uniform, log_uniform_slope
from probcomp.inference.baselines.engine import Fit, Schedule, WeightTerm
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
        refresh: Steps between evaluations of the divergence's gradient over all weights; it
            changes slowly, and in between the last one is used.
    """

    epochs: int = 30
    noise_rate: float = 3e-2
    warm_up: float = 0.1
    threshold: float = 3.0
    log_variance: float = -10.0
    refresh: int = 4


class LogUniformWeights(WeightTerm):
    """The log-uniform divergence over the weights of Bayesian layers."""

    def __init__(self, layers: dict[str, Any], refresh: int = 1) -> None:
        self.layers = layers
        self.refresh, self.step = refresh, 0
        self.slopes: dict[str, tuple[Tensor, Tensor]] = {}

    def log_alpha(self) -> dict[str, Tensor]:
        """``ln(sigma^2 / mu^2)`` of every weight."""
        return {name: _log_alpha(layer) for name, layer in self.layers.items()}

    def value(self) -> Tensor:
        """The divergence, [] in nats."""
        return torch.stack([log_uniform(a).sum() for a in self.log_alpha().values()]).sum()

    @torch.no_grad()
    def add_gradient(self, pull: float) -> None:
        """Chain rule through ``ln alpha = 2 ln sigma - ln mu^2``."""
        if self.step % self.refresh == 0:
            self.slopes = {name: self.slope(layer) for name, layer in self.layers.items()}
        self.step += 1
        for name, layer in self.layers.items():
            of_mean, of_sigma = self.slopes[name]
            if layer.weight.grad is not None:
                layer.weight.grad.add_(of_mean, alpha=pull)
            if layer.weight_log_sigma.grad is not None:
                layer.weight_log_sigma.grad.add_(of_sigma, alpha=pull)

    def slope(self, layer: Any) -> tuple[Tensor, Tensor]:
        """Derivatives by the means and by the log deviations."""
        squares = layer.weight.square().add_(TINY)
        of_sigma = log_uniform_slope(2 * layer.weight_log_sigma - squares.log()).mul_(2)
        # d ln mu^2 / d mu = 2 mu / (mu^2 + tiny)
        return squares.reciprocal_().mul_(layer.weight).mul_(of_sigma).neg_(), of_sigma

    def state(self) -> dict[str, Tensor]:
        """The step, and the slopes that are used until the next refresh."""
        kept = {f"{n}/{i}": t for n, slopes in self.slopes.items() for i, t in enumerate(slopes)}
        return {**kept, "step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.step = int(state["step"])
        self.slopes = {name: (state[f"{name}/0"], state[f"{name}/1"]) for name in self.layers}


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
        term = LogUniformWeights(layers, config.refresh)
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
