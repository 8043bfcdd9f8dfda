r"""Spike-and-slab variational inference: Bai, Song and Cheng (2020), NeurIPS.

Prior :math:`w \sim \lambda N(0, \sigma_0^2) + (1 - \lambda)\delta_0`, posterior
:math:`\gamma N(\mu, \sigma^2) + (1 - \gamma)\delta_0`, each weight by itself. The divergence is

.. math:: KL(\mathrm{Bern}(\gamma) \| \mathrm{Bern}(\lambda))
          + \gamma\, KL(N(\mu, \sigma^2) \| N(0, \sigma_0^2))

and the expected loss is estimated with the Gumbel-softmax relaxation of the supports at temperature
0.5 (section 4). The prior inclusion follows their theory (section 3):
:math:`\ln\lambda^{-1} = \ln T + 0.1[(L + 1)\ln N + \ln(\sqrt n\, p)]` for ``T`` weights, ``L``
hidden layers of width ``N``, ``p`` inputs and ``n`` samples. A weight stays when
:math:`\gamma > 1/2`: the median probability model.

Departures: predictions of the publication average draws of the posterior; the one network here uses
the mean :math:`\gamma\mu` of the weights that stay; ``N`` is the geometric mean of the hidden
widths; pretrained start.

As a Pyro model and guide: ``programs.baseline_program("spike-slab-vb", module, samples=n)``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.divergences import bernoulli, normal
from probcomp.inference.baselines.engine import Fit, Schedule, WeightTerm
from probcomp.inference.baselines.precision import layer_bits
from probcomp.inference.baselines.preparing import Setting, finish, run, seeded, working_copy
from probcomp.inference.baselines.readout import Pruned, cut, settle
from probcomp.inference.baselines.reweighting import reweight, undo
from probcomp.inference.posterior import Posterior, WeightPosterior
from probcomp.inference.training.layers import LOG_SIGMA, Noise
from probcomp.inference.training.weights import terms_of

LOG_ODDS = "weight_log_odds"


@dataclass(frozen=True, kw_only=True)
class SpikeSlabConfig(Schedule):
    """Settings of spike-and-slab variational inference.

    ``warm_up`` on 10,000 held-out training images of MNIST, LeNet-300-100, one seed, 12 epochs and
    a refit of 4 (``probcomp bench baseline_choices``; dense network 1.78 %), error and
    non-zeros with the theory's prior log-odds and with -7:

    | share | theory | -7 |
    |---|---|---|
    | 0 | 15.82 %, 822 | |
    | 0.2 | 8.14 %, 1,222 | 4.56 %, 2,403 |
    | 0.5 | 5.92 %, 1,713 | 3.65 %, 3,475 |
    | 0.8 | 4.51 %, 2,494 | 2.66 %, 5,354 |

    No value comes within 0.3 points of the dense network, which was the rule fixed before; all
    trade error for size along one line, so 0.5, which had been set by hand, was left.

    Attributes:
        slab: Variance of the slab.
        log_odds: Prior log-odds of inclusion, or ``None`` for the formula of the theory.
        temperature: Of the relaxed supports.
        start_log_odds: Posterior log-odds at the start.
        log_variance: Log of the initial variance of the slab's posterior.
        refresh: Steps between evaluations of the divergence's gradient.
    """

    warm_up: float = 0.5
    slab: float = 2.0
    log_odds: float | None = None
    temperature: float = 0.5
    start_log_odds: float = 3.0
    log_variance: float = -10.0
    refresh: int = 4


class _Relaxed(torch.autograd.Function):
    """``s (mu + sigma e)`` with ``s = sigmoid((log_odds + logistic) / temperature)``."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_sigma: Tensor, log_odds: Tensor, given: tuple[Any, ...]
    ) -> Tensor:
        noise, logistic, temperature = given
        spread = log_sigma.exp().mul_(noise)
        support = torch.sigmoid_(logistic.add_(log_odds).div_(temperature))
        value = spread + mean
        weight = value * support
        ctx.temperature = temperature
        ctx.save_for_backward(spread, support, value)
        return weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        spread, support, value = ctx.saved_tensors
        by_value = gradients[0] * support
        if not ctx.needs_input_grad[1]:
            return by_value, None, None, None
        # d s / d log_odds = s (1 - s) / temperature
        slope = (1 - support).mul_(value).mul_(by_value).div_(ctx.temperature)
        return by_value, spread * by_value, slope, None


class SpikeSlabWeights(WeightTerm):
    """The divergence over the weights of reweighted layers."""

    def __init__(
        self, layers: dict[str, Any], log_odds: float, slab: float, refresh: int = 1
    ) -> None:
        self.layers, self.log_odds, self.slab = layers, log_odds, slab
        self.refresh, self.step = refresh, 0
        self.slopes: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def value(self) -> Tensor:
        """The divergence, [] in nats."""
        parts = []
        for layer in self.layers.values():
            odds = layer.weight_log_odds
            slab = normal(layer.weight, layer.weight_log_sigma, self.slab)
            parts.append((bernoulli(odds, self.log_odds) + torch.sigmoid(odds) * slab).sum())
        return torch.stack(parts).sum()

    @torch.no_grad()
    def add_gradient(self, pull: float) -> None:
        """In closed form, evaluated every ``refresh`` steps."""
        if self.step % self.refresh == 0:
            self.slopes = {name: self.slope(layer) for name, layer in self.layers.items()}
        self.step += 1
        for name, layer in self.layers.items():
            parameters = (layer.weight, layer.weight_log_sigma, layer.weight_log_odds)
            for parameter, slope in zip(parameters, self.slopes[name], strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(slope, alpha=pull)

    def slope(self, layer: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives by the means, the log deviations and the log-odds."""
        odds = layer.weight_log_odds
        support = torch.sigmoid(odds)
        variance = torch.exp(2 * layer.weight_log_sigma)
        slab = normal(layer.weight, layer.weight_log_sigma, self.slab)
        by_odds = (odds - self.log_odds + slab) * support * (1 - support)
        return (
            support * layer.weight / self.slab,
            support * (variance / self.slab - 1),
            by_odds,
        )

    def state(self) -> dict[str, Tensor]:
        """The step, and the slopes that are used until the next refresh."""
        kept = {f"{n}/{i}": t for n, slopes in self.slopes.items() for i, t in enumerate(slopes)}
        return {**kept, "step": torch.tensor(self.step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.step = int(state["step"])
        self.slopes = {
            name: (state[f"{name}/0"], state[f"{name}/1"], state[f"{name}/2"])
            for name in self.layers
        }

    def after_step(self) -> None:
        """Nothing to bring back."""


def prior_log_odds(shapes: Sequence[Sequence[int]], samples: int) -> float:
    r"""Log-odds of inclusion from the theory of the publication, nats.

    Args:
        shapes: Shapes of the weights, in the order of the layers, outputs first.
        samples: Number of training samples.
    """
    count = sum(math.prod(shape) for shape in shapes)
    hidden = [shape[0] for shape in shapes[:-1]]
    width = math.exp(sum(map(math.log, hidden)) / len(hidden)) if hidden else 1.0
    inputs = math.prod(shapes[0][1:])
    price = math.log(count)
    price += 0.1 * ((len(hidden) + 1) * math.log(width) + math.log(math.sqrt(samples) * inputs))
    return -price - math.log1p(-math.exp(-price))


def spike_slab(setting: Setting, config: SpikeSlabConfig | None = None) -> Pruned:
    """Train with a spike-and-slab posterior over each weight and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `sparse_vd`.
    """
    config = config or SpikeSlabConfig()
    with seeded(setting.seed) as noise:
        model, names = working_copy(setting)
        layers = reweight(model, names, _drawing(noise, config.temperature))
        for layer in layers.values():
            like = layer.weight.detach()
            start = torch.full_like(like, 0.5 * config.log_variance)
            layer.register_parameter(LOG_SIGMA, nn.Parameter(start))
            odds = torch.full_like(like, config.start_log_odds)
            layer.register_parameter(LOG_ODDS, nn.Parameter(odds))
        prior = config.log_odds
        if prior is None:
            shapes = [tuple(layer.weight.shape) for layer in layers.values()]
            prior = prior_log_odds(shapes, terms_of(setting.batches))
        term = SpikeSlabWeights(layers, prior, config.slab, config.refresh)
        fit = Fit(model, setting.batches, setting.loss, config, noise, terms=[term])
        history = run(fit, setting, config)
        weights = {}
        for name, layer in layers.items():
            odds = layer.weight_log_odds.detach().clone()
            weights[name] = WeightPosterior(
                log_odds=odds,
                probability=torch.sigmoid(odds),
                mean=layer.weight.detach().clone(),
                variance=torch.exp(2 * layer.weight_log_sigma.detach()),
            )
            del layer._parameters[LOG_SIGMA], layer._parameters[LOG_ODDS]
            with torch.no_grad():
                layer.weight.mul_(torch.sigmoid(odds))
        undo(layers)
        masks, keep, shift = cut(
            {n: w.log_odds for n, w in weights.items()},
            dict.fromkeys(weights, 0.0),
            lambda alive: settle(model, alive, setting.units),
            setting.limit,
        )
        refitted = finish(model, setting, config, masks, keep)
    meta = {
        "method": "spike-slab-vb",
        "rule": f"log-odds > {shift:.4g}",
        "threshold": shift,
        "prior_log_odds": prior,
        "bits": {n: layer_bits(w.mean, w.variance, masks[n]) for n, w in weights.items()},
        "refit_nll": refitted,
    }
    return Pruned(
        model=model,
        masks=masks,
        keep=keep,
        history=history,
        posterior=Posterior(weights, {}, meta),
        meta=meta,
    )


def _drawing(noise: Noise, temperature: float) -> Any:
    def effective(layer: Any) -> Tensor:
        mean = layer.weight
        e = torch.empty_like(mean).normal_(generator=noise.generator)
        u = torch.empty_like(mean).uniform_(1e-6, 1 - 1e-6, generator=noise.generator)
        logistic = torch.log(u).sub_(torch.log1p(-u))
        sigma, odds = layer.weight_log_sigma, layer.weight_log_odds
        if not noise.learn:
            sigma, odds = sigma.detach(), odds.detach()
        return _Relaxed.apply(mean, sigma, odds, (e, logistic, temperature))

    return effective
