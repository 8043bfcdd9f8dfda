r"""Bayesian compression, BC-GNJ and BC-GHS: Louizos, Ullrich and Welling (2017), NeurIPS.

A scale for each group of weights that read one unit, and weights that are Gaussian given it:
:math:`w_{ij} = z_i \tilde w_{ij}`, prior :math:`\tilde w \sim N(0, 1)`, posterior
:math:`q(\tilde w) = N(\mu, \sigma^2)`.

``BC-GNJ`` (section 4.2.1)
    Normal-Jeffreys: :math:`p(z) \propto 1/|z|`, :math:`q(z_i) = N(\mu_z, \alpha_i \mu_z^2)`; the
    divergence is that of sparse variational dropout; a group goes when :math:`\ln\alpha_i` is
    above a threshold.
``BC-GHS`` (section 4.2.2)
    Horseshoe: :math:`z_i = s\,\tilde z_i` with half-Cauchy :math:`s \sim C^+(0, \tau_0)` and
    :math:`\tilde z_i \sim C^+(0, 1)`. Each half-Cauchy is the root of a product of a
    Gamma(1/2) and an InverseGamma(1/2) variable, with log-normal posteriors, so :math:`q(z_i)` is
    log-normal; a group goes when its log-mode is below a threshold.

Departures: the thresholds of the publication were set by hand for each layer after a look at the
histogram; here each is the highest at which the training loss stays (`thresholds.by_loss`), unless
one number is given. Biases have no posterior. The scales act on activations, which is the same
product. Training starts from a pretrained network, each group written as its root mean square
times weights of order one: where the scales start at 1, weights far below their prior's width have
to travel first, and few groups leave within dozens of epochs.

As Pyro models and guides: ``programs.baseline_program("bc-gnj", module)`` and ``"bc-ghs"``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.divergences import (
    log_normal_gamma,
    log_normal_inverse_gamma,
    log_uniform,
    normal,
)
from probcomp.inference.baselines.engine import Fit, Schedule, WeightTerm
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.places import Place, find_places
from probcomp.inference.baselines.precision import layer_bits
from probcomp.inference.baselines.preparing import (
    Setting,
    decide_units,
    finish,
    give_posterior,
    run,
    seeded,
    working_copy,
)
from probcomp.inference.baselines.readout import Pruned, cut
from probcomp.inference.baselines.thresholds import by_loss
from probcomp.inference.training.layers import from_bayesian

TINY = 1e-8

LEAST_SCALE = 1e-2
"""Smallest scale that a group starts with, over the root mean square of its layer's."""


@dataclass(frozen=True, kw_only=True)
class GroupConfig(Schedule):
    """Settings of both forms.

    ``learning_rate``, ``noise_rate``, ``warm_up`` and ``tolerance`` were chosen with LeNet-300-100
    on MNIST, by the error on 10,000 images held out of its training set.

    Attributes:
        threshold: BC-GNJ: groups with ``ln alpha`` above this go. BC-GHS: groups whose negative
            log-mode is above this go. ``None`` reads one for each place off the training loss.
        tolerance: By how much those may raise the mean training loss, nats for each sample.
        log_variance: Log of the initial posterior variance of weights.
        scale_log_variance: Log of the initial posterior variance of the scales (BC-GNJ), or of
            their logs (BC-GHS).
        clip_variance: Largest posterior variance of a weight in the first layer, the scale it
            starts with included; the authors clip it there, where the noise of all pixels adds up.
        tau: Scale of the global half-Cauchy (BC-GHS).
    """

    learning_rate: float = 3e-3
    noise_rate: float = 2e-2
    warm_up: float = 0.5
    threshold: float | None = None
    tolerance: float = 0.03
    log_variance: float = -9.0
    scale_log_variance: float = -9.0
    clip_variance: float = 0.04
    tau: float = 1e-5


class JeffreysGate(Gate):
    """``q(z) = N(mu, sigma^2)`` against ``p(z)`` proportional to ``1 / |z|``."""

    def __init__(self, place: Place, config: GroupConfig) -> None:
        super().__init__(place)
        self.threshold = -(config.threshold or 0.0)
        # z over the scale it starts at: Adam's steps are then relative for any size of weights.
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(place.size))
        self.location = nn.Parameter(torch.ones(place.size))
        self.log_sigma = nn.Parameter(torch.full((place.size,), 0.5 * config.scale_log_variance))

    def start(self, scales: Tensor) -> None:
        """Start at these scales, [size]; the prior does not see them."""
        self.unit.copy_(scales)

    def log_alpha(self) -> Tensor:
        """``ln(sigma^2 / mu^2)``, [size]."""
        return 2 * self.log_sigma - torch.log(self.location.square() + TINY)

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows, self.place.size, generator=generator)
        return self.unit * (self.location + noise * torch.exp(self.log_sigma))

    def mean(self) -> Tensor:
        return (self.unit * self.location).detach()

    def variance(self) -> Tensor:
        return (self.unit.square() * torch.exp(2 * self.log_sigma)).detach()

    def divergence(self) -> Tensor:
        return log_uniform(self.log_alpha()).sum()

    def score(self) -> Tensor:
        return -self.log_alpha().detach()


class HorseshoeGate(Gate):
    """Log-normal factors of the global and the local half-Cauchy scales.

    ``s = sqrt(s_a s_b)`` and ``z_i = s sqrt(alpha_i beta_i)``; the four means start so that every
    scale is 1 and the global factors fit their priors.
    """

    def __init__(self, place: Place, config: GroupConfig) -> None:
        super().__init__(place)
        self.threshold = -(config.threshold or 0.0)
        self.scale = config.tau**2
        spread = 0.5 * config.scale_log_variance
        start = math.log(self.scale)
        self.shared = nn.Parameter(torch.tensor([start, -start]))
        self.shared_log_sigma = nn.Parameter(torch.full((2,), spread))
        self.local = nn.Parameter(torch.zeros(2, place.size))
        self.local_log_sigma = nn.Parameter(torch.full((2, place.size), spread))

    @torch.no_grad()
    def start(self, scales: Tensor) -> None:
        """Start at these scales, [size]: their common part in the shared scale."""
        logs = scales.log()
        self.shared[1] += 2 * logs.mean()
        self.local[0] += 2 * (logs - logs.mean())

    def log_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``ln z_i``, each [size]."""
        mean = 0.5 * (self.shared.sum() + self.local.sum(0))
        variances = torch.exp(2 * self.shared_log_sigma).sum() + torch.exp(
            2 * self.local_log_sigma
        ).sum(0)
        return mean, 0.25 * variances

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        # One draw of the shared scale for each sample, seen by all of its units.
        common = torch.exp(2 * self.shared_log_sigma).sum().sqrt()
        own = torch.exp(2 * self.local_log_sigma).sum(0).sqrt()
        first = torch.randn(rows, 1, generator=generator) * common
        second = torch.randn(rows, self.place.size, generator=generator) * own
        return torch.exp(0.5 * (self.shared.sum() + self.local.sum(0) + first + second))

    def mean(self) -> Tensor:
        mean, variance = self.log_moments()
        return torch.exp(mean + 0.5 * variance).detach()

    def variance(self) -> Tensor:
        _, variance = self.log_moments()
        return (self.mean().square() * torch.expm1(variance)).detach()

    def divergence(self) -> Tensor:
        parts = (
            log_normal_gamma(self.shared[0], self.shared_log_sigma[0], self.scale),
            log_normal_inverse_gamma(self.shared[1], self.shared_log_sigma[1]),
            log_normal_gamma(self.local[0], self.local_log_sigma[0]).sum(),
            log_normal_inverse_gamma(self.local[1], self.local_log_sigma[1]).sum(),
        )
        return torch.stack(parts).sum()

    def score(self) -> Tensor:
        mean, variance = self.log_moments()
        return (mean - variance).detach()  # log of the mode of a log-normal


@torch.no_grad()
def move_scales(model: nn.Module, gates: Sequence[Any]) -> None:
    """Write each group as its root mean square times weights of order one, in place."""
    for gate in gates:
        place = gate.place
        weights: list[Any] = [model.get_submodule(r.layer).weight for r in place.readers]
        total = weights[0].new_zeros(place.size)
        for reader, weight in zip(place.readers, weights, strict=True):
            here = reader.index >= 0
            squares = weight.square().movedim(1, 0).flatten(1).sum(1)
            total.index_add_(0, reader.index[here], squares[here])
        root = (total / place.fan).sqrt()
        root = root.clamp_min(LEAST_SCALE * float(root.square().mean().sqrt()) + TINY)
        gate.start(root)
        for reader, weight in zip(place.readers, weights, strict=True):
            weight.div_(reader.spread(root, 1.0).reshape(1, -1, *[1] * (weight.dim() - 2)))


class NormalWeights(WeightTerm):
    """``KL(N(mu, sigma^2) || N(0, 1))`` over the weights of Bayesian layers."""

    def __init__(self, layers: dict[str, Any], clip: dict[str, float]) -> None:
        self.layers = layers
        self.clip = {name: 0.5 * math.log(value) for name, value in clip.items()}

    def value(self) -> Tensor:
        """The divergence, [] in nats."""
        return torch.stack(
            [normal(m.weight, m.weight_log_sigma).sum() for m in self.layers.values()]
        ).sum()

    @torch.no_grad()
    def add_gradient(self, pull: float) -> None:
        """``mu`` for the mean and ``sigma^2 - 1`` for the log deviation."""
        for layer in self.layers.values():
            if layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight, alpha=pull)
            if layer.weight_log_sigma.grad is None:
                continue
            variance = layer.variance
            if variance is None:
                variance = torch.exp(2 * layer.weight_log_sigma)
            layer.weight_log_sigma.grad.add_(variance, alpha=pull).sub_(pull)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clip the deviations of layers that have a limit."""
        for name, limit in self.clip.items():
            self.layers[name].weight_log_sigma.clamp_(max=limit)


def bc_gnj(setting: Setting, config: GroupConfig | None = None) -> Pruned:
    """Train with the group normal-Jeffreys prior and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `sparse_vd`.
    """
    return _fit(setting, config or GroupConfig(), "bc-gnj", JeffreysGate)


def bc_ghs(setting: Setting, config: GroupConfig | None = None) -> Pruned:
    """Train with the group horseshoe prior and prune; see the module.

    Raises:
        InputError, BudgetError, DivergenceError: As `sparse_vd`.
    """
    return _fit(setting, config or GroupConfig(), "bc-ghs", HorseshoeGate)


def _fit(
    setting: Setting,
    config: GroupConfig,
    name: str,
    family: Callable[[Place, GroupConfig], Gate],
) -> Pruned:
    with seeded(setting.seed) as noise:
        model, names = working_copy(setting)
        gates = [family(place, config) for place in find_places(model, setting.units, names)]
        move_scales(model, gates)
        layers = give_posterior(model, names, noise, config.log_variance)
        first = next(iter(layers))
        # Of z w, at the scale that z starts with; relative to that scale it is far above 1.
        before, after = (m.get_parameter(first).square().mean() for m in (setting.model, model))
        limit = config.clip_variance * float((after / before).detach())
        term = NormalWeights(layers, {first: limit})
        fit = Fit(model, setting.batches, setting.loss, config, noise, gates, [term])
        history = run(fit, setting, config)
        scores = {gate.place.name: gate.score() for gate in gates}
        variance = weight_variance(layers, gates)
        from_bayesian(model)
        if fit.gating is not None:
            fit.gating.fold(model)
        thresholds = {gate.place.name: gate.threshold for gate in gates}
        if config.threshold is None:
            thresholds = by_loss(
                model, gates, scores, setting.batches, setting.loss, config.tolerance
            )
        masks, keep, shift = cut(
            scores,
            thresholds,
            decide_units(model, names, setting.units, gates),
            setting.limit,
        )
        bits = {n: layer_bits(model.get_parameter(n).detach(), v, masks[n])
                for n, v in variance.items()}  # fmt: skip
        refitted = finish(model, setting, config, masks, keep)
    meta = {
        "method": name,
        "rule": "score > threshold of its place",
        "thresholds": {n: t + shift for n, t in thresholds.items()},
        "bits": bits,
        "refit_nll": refitted,
        "scores": {n: s.tolist() for n, s in scores.items()},
    }
    return Pruned(model=model, masks=masks, keep=keep, history=history, meta=meta)


@torch.no_grad()
def weight_variance(layers: dict[str, Any], gates: list[Gate]) -> dict[str, Tensor]:
    """Posterior variance of ``z w``: ``E[z^2] (mu^2 + sigma^2) - E[z]^2 mu^2``, by weight name."""
    found = {}
    for name, layer in layers.items():
        first = second = layer.weight.new_ones(layer.weight.shape[1])
        for gate in gates:
            for reader in gate.place.readers:
                if f"{reader.layer}.weight".lstrip(".") == name:
                    mean = gate.mean()
                    first = first * reader.spread(mean, 1.0)
                    second = second * reader.spread(mean.square() + gate.variance(), 1.0)
        shape = (1, -1, *[1] * (layer.weight.dim() - 2))
        squares = layer.weight.square()
        spread = squares + torch.exp(2 * layer.weight_log_sigma)
        found[name] = second.reshape(shape) * spread - first.square().reshape(shape) * squares
    return found
