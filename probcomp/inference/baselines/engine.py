"""The one training loop of all variational baselines.

Adam on the expected loss plus the divergence. Gates (small vectors) and whatever else is a
differentiable scalar go through autograd; divergences over all weights add their closed-form
gradient in place, since a second pass of autograd over every weight would double an epoch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.baselines.gating import Gate, Gating
from probcomp.inference.training.layers import LOG_SIGMA, Noise
from probcomp.inference.training.weights import BatchSource, Loss, rows, terms_of
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

TRAINING = "baseline"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a variational baseline trains.

    Attributes:
        epochs: Passes over the data.
        batch_size: Samples a step; used by the recipe, which makes the batches.
        learning_rate: Adam step of the weights, falling to zero along a line.
        noise_rate: Adam step of log deviations and gates, falling likewise.
        noise_every: Log deviations and gates are updated every so many steps, weights in each.
            Their gradients cost as much as everything else, and every update is unbiased.
        warm_up: Share of the epochs over which the divergence's weight rises from 0.
        kl_weight: Its weight after that; 1 is the evidence lower bound.
        refit_epochs: Passes over the data with the masks fixed afterwards. The publications have
            none, so this is 0 unless a method says otherwise.
        refit_rate: Adam step of the refit.
        refit_teacher: Share that the given network's outputs have in the loss of the refit, for
            classifiers: `probcomp.inference.training.distillation`. The publications have none.
    """

    epochs: int = 25
    batch_size: int = 128
    learning_rate: float = 1e-3
    noise_rate: float = 1e-2
    noise_every: int = 2
    warm_up: float = 0.2
    kl_weight: float = 1.0
    refit_epochs: int = 0
    refit_rate: float = 1e-3
    refit_teacher: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {value}"
            for name, value, least in (
                ("epochs", self.epochs, 1),
                ("batch_size", self.batch_size, 1),
                ("noise_every", self.noise_every, 1),
                ("refit_epochs", self.refit_epochs, 0),
            )
            if value < least
        ]
        problems += [
            f"{name} must be positive and finite, got {value}"
            for name, value in (
                ("learning_rate", self.learning_rate),
                ("noise_rate", self.noise_rate),
                ("kl_weight", self.kl_weight),
                ("refit_rate", self.refit_rate),
            )
            if not (math.isfinite(value) and value > 0)
        ]
        if not 0 <= self.warm_up <= 1:
            problems.append(f"warm_up is a share of the epochs, got {self.warm_up}")
        if not 0 <= self.refit_teacher <= 1:
            problems.append(f"refit_teacher is a share of the loss, got {self.refit_teacher}")
        if problems:
            raise InputError("; ".join(problems))


class WeightTerm:
    """A divergence over all weights, with its gradient in closed form.

    A parameter whose ``.grad`` is ``None`` takes no part in a step and is left alone.
    """

    def value(self) -> Tensor:
        """The divergence, [] in nats."""
        raise NotImplementedError

    def add_gradient(self, pull: float) -> None:
        """Add ``pull`` times the gradient to the ``.grad`` of the parameters it depends on."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Bring the parameters back where they may be."""

    def state(self) -> dict[str, Tensor]:
        """What a term remembers from step to step, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""


class Decay(WeightTerm):
    """``precision / 2`` times the squared weights: a Gaussian prior, at its mode."""

    def __init__(self, weights: Sequence[nn.Parameter], precision: float) -> None:
        self.weights, self.precision = weights, precision

    def value(self) -> Tensor:
        """The penalty, [] in nats."""
        return 0.5 * self.precision * torch.stack([w.square().sum() for w in self.weights]).sum()

    def add_gradient(self, pull: float) -> None:
        """``precision`` times the weights."""
        for weight in self.weights:
            if weight.grad is not None:  # None where the loss did not reach it
                weight.grad.add_(weight, alpha=pull * self.precision)


@dataclass
class Fit:
    """What is trained; everything in it changes in place.

    Attributes:
        model: Dense-shaped, perhaps with Bayesian layers.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        gates: Scales on what layers read.
        terms: Divergences over weights.
        noise: Source of all noise.
        schedule: Settings.
        gating: The hooks of the gates.
    """

    model: nn.Module
    batches: BatchSource
    loss: Loss
    schedule: Schedule
    noise: Noise
    gates: Sequence[Gate] = ()
    terms: Sequence[WeightTerm] = ()
    gating: Gating | None = field(init=False)

    def __post_init__(self) -> None:
        self.gating = None
        if self.gates:
            self.gating = Gating(self.model, self.gates, self.noise)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: Epochs done.
        nll: Mean training loss, nats for each sample.
        kl: Divergence after the epoch, nats.
    """

    epoch: int
    nll: float
    kl: float


def train(
    fit: Fit,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Minimise the expected loss plus ``kl_weight / terms`` times the divergence.

    The terms are what the loss is a mean of: samples, or the tokens of texts.

    Args:
        fit: Changed in place.
        checkpoint: Directory to continue from and to write to after every epoch.
        identity: What a checkpoint must have been made with; another one is refused.
        on_epoch: Called after every epoch.

    Returns:
        One entry for each epoch.

    Raises:
        InputError: The checkpoint is of another run.
        DivergenceError: The loss is not finite.
    """
    schedule = fit.schedule
    optimizer = _optimizer(fit)
    history = _load(fit, optimizer, checkpoint, identity) if checkpoint else []
    warm = schedule.warm_up * schedule.epochs
    fit.model.train()
    for epoch in range(len(history), schedule.epochs):
        total, count, done = 0.0, 0, 0
        for index, batch in enumerate(fit.batches(epoch)):
            fit.noise.learn = index % schedule.noise_every == 0
            at = epoch + done / fit.batches.samples
            fall = max(1 - at / schedule.epochs, 1e-3)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * fall
            rise = min(1.0, at / warm) if warm else 1.0
            total += _step(fit, optimizer, batch, rise * schedule.kl_weight / terms_of(fit.batches))
            count, done = count + 1, done + rows(batch)
            if not math.isfinite(total):
                raise DivergenceError(
                    f"the loss is not finite in epoch {epoch}; lower learning_rate or noise_rate"
                )
        history.append(Epoch(epoch + 1, total / max(count, 1), divergence(fit)))
        if checkpoint:
            _save(fit, optimizer, history, checkpoint, identity)
        if on_epoch is not None:
            on_epoch(history[-1])
    fit.model.eval()
    return history


@torch.no_grad()
def divergence(fit: Fit) -> float:
    """All that is added to the loss, nats."""
    parts = [gate.divergence() for gate in fit.gates] + [term.value() for term in fit.terms]
    return float(sum(float(part) for part in parts))


def _step(fit: Fit, optimizer: torch.optim.Optimizer, batch: Any, pull: float) -> float:
    optimizer.zero_grad(set_to_none=True)
    if fit.gating is not None:
        fit.gating.fresh()
    loss = fit.loss(fit.model, batch)
    value = loss.item()
    if fit.gates and fit.noise.learn:
        loss = loss + pull * torch.stack([gate.divergence() for gate in fit.gates]).sum()
    loss.backward()
    with torch.no_grad():
        for term in fit.terms:
            term.add_gradient(pull)
    optimizer.step()
    with torch.no_grad():
        for gate in fit.gates:
            gate.after_step()
        for term in fit.terms:
            term.after_step()
    return value


def _optimizer(fit: Fit) -> torch.optim.Optimizer:
    schedule = fit.schedule
    slow: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for name, parameter in fit.model.named_parameters():
        if parameter.requires_grad:
            (fast if name.rpartition(".")[2] in NOISY else slow).append(parameter)
    fast += [p for gate in fit.gates for p in gate.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": slow, "lr": schedule.learning_rate, "base": schedule.learning_rate},
        {"params": fast, "lr": schedule.noise_rate, "base": schedule.noise_rate},
    ]
    return torch.optim.Adam([g for g in groups if g["params"]], fused=True)


NOISY = (LOG_SIGMA, "weight_log_odds")
"""Last parts of the names of parameters that describe the posterior's width and supports."""


def _state(fit: Fit, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model/{name}": t for name, t in fit.model.state_dict().items()}
    for i, gate in enumerate(fit.gates):
        tensors |= {f"gate{i}/{name}": t for name, t in gate.state_dict().items()}
    for i, term in enumerate(fit.terms):
        tensors |= {f"term{i}/{name}": t for name, t in term.state().items()}
    for key, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{key}/{name}": t for name, t in state.items()}
    tensors["generator"] = fit.noise.generator.get_state()
    tensors["global"] = torch.get_rng_state()
    return tensors


def _save(
    fit: Fit,
    optimizer: torch.optim.Optimizer,
    history: list[Epoch],
    directory: Path,
    identity: str,
) -> None:
    tensors = {name: t.detach().cpu() for name, t in _state(fit, optimizer).items()}
    # Tensors first: the record that names them is only valid once they are there.
    path = directory / f"{TRAINING}-{len(history)}.safetensors"
    write_tensors(path, tensors)
    epochs = [vars(epoch) for epoch in history]
    write_json(directory / f"{TRAINING}.json", {"identity": identity, "history": epochs})
    for old in directory.glob(f"{TRAINING}-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


def _load(
    fit: Fit, optimizer: torch.optim.Optimizer, directory: Path, identity: str
) -> list[Epoch]:
    path = directory / f"{TRAINING}.json"
    if not path.exists():
        return []
    record = read_json(path)
    if record["identity"] != identity:
        raise InputError(
            f"the checkpoint in {directory} is of another run: got {record['identity']}, "
            f"expected {identity}; use another directory"
        )
    history = [Epoch(**entry) for entry in record["history"]]
    tensors = read_tensors(directory / f"{TRAINING}-{len(history)}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    fit.model.load_state_dict(part("model/"))
    for i, gate in enumerate(fit.gates):
        gate.load_state_dict(part(f"gate{i}/"))
    for i, term in enumerate(fit.terms):
        term.load(part(f"term{i}/"))
    adam: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("adam/").items():
        key, _, field_name = name.partition("/")
        adam.setdefault(int(key), {})[field_name] = tensor
    state = optimizer.state_dict()
    state["state"] = adam
    optimizer.load_state_dict(state)
    fit.noise.generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["global"])
    return history
