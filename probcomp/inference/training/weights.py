"""The weight step of Turbo-VBI: Adam on the expected loss plus the divergence from the prior."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError
from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.evidence import WeightEvidence
from probcomp.inference.training.gates import REMOVED, Graph
from probcomp.inference.training.layers import Noise, bayesian_layers
from probcomp.inference.training.schedule import Plan
from probcomp.inference.training.units import Slot

DEAD_LOG_SIGMA = -12.0
"""Log sigma of the weights of a removed unit: no noise that float32 would see."""


WORTH_CUTTING = 0.8
"""Share of a weight above which leaving out the rest would cost more than it saves."""


class BatchSource(Protocol):
    """Seeded epochs of batches.

    A source may also say by ``terms`` how many the loss is a mean of, where these are not its
    samples: the tokens of texts.
    """

    samples: int

    def __call__(self, epoch: int) -> Iterable[Any]:
        """The batches of one epoch; the same epoch gives the same batches."""


def terms_of(batches: BatchSource) -> int:
    """How many terms of the log-likelihood the loss is a mean of: ``|D|`` of the evidence bound."""
    return int(getattr(batches, "terms", batches.samples))


def rows(batch: Any) -> int:
    """Samples in a batch."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


Place = tuple[int, int]
"""Number of an epoch, and of a batch in it."""

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass
class Run:
    """What a run works on; the model, the optimiser and the noise change in place.

    Attributes:
        model: Has Bayesian layers.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        evidence: Form of the posterior over weights, precisions and supports.
        config: Settings.
        noise: Source of the layers' noise.
        target: Expected cost to reach, in the cost's unit, or ``None``.
        kl_weight: Weight of the divergence at full strength.
        optimizer: Adam over all parameters: the log sigmas are its second group.
    """

    model: nn.Module
    batches: BatchSource
    loss: Loss
    evidence: WeightEvidence
    config: TurboConfig
    noise: Noise
    target: float | None
    kl_weight: float = 1.0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        sigmas = [layer.weight_log_sigma for _, layer in bayesian_layers(self.model)]
        known = {id(p) for p in sigmas}
        means = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        self.optimizer = torch.optim.Adam(
            [
                {"params": means, "lr": self.config.learning_rate},
                {"params": sigmas, "lr": self.config.sigma_rate},
            ],
            fused=True,
        )

    @property
    def layers(self) -> dict[str, Any]:
        """Weight name to Bayesian layer."""
        return {f"{n}.weight" if n else "weight": m for n, m in bayesian_layers(self.model)}


def weight_step(
    run: Run, graph: Graph, precision: Mapping[str, Tensor], place: Place, goal: Plan
) -> tuple[float, Place]:
    """Some batches of Adam on the expected loss plus the divergence.

    Args:
        run: The model, its optimiser and its noise change in place.
        graph: Says which units were removed for good.
        precision: Weight name to precision of its Gaussian prior.
        place: Epoch and batch to begin with.
        goal: Learning rate and weight of the divergence.

    Returns:
        The mean loss, and the place where the next step begins.

    Raises:
        DivergenceError: The loss is not finite.
    """
    config = run.config
    for group, rate in zip(
        run.optimizer.param_groups, (config.learning_rate, config.sigma_rate), strict=True
    ):
        group["lr"] = rate * goal.learning
    pull = goal.kl_weight / terms_of(run.batches)
    layers = run.layers
    dead = {n: d for n, d in dead_entries(graph).items() if bool(d.any())}
    leave_out(layers, {n: ~d for n, d in dead.items()})
    run.model.train()
    total, count = 0.0, 0
    for (epoch, index), batch, after in stream(run.batches, place, config.steps, config.epochs):
        run.noise.learn = index % config.sigma_every == 0
        run.optimizer.zero_grad(set_to_none=True)
        loss = run.loss(run.model, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(_blame(run, f"the loss is {value} in epoch {epoch}"))
        loss.backward()
        add_divergence(layers, precision, pull)
        run.optimizer.step()
        for name, gone in dead.items():
            silence(run.model, name, gone)
        total, count, place = total + value, count + 1, after
    return total / max(count, 1), place


def stream(
    batches: BatchSource, place: Place, steps: int, epochs: int | None = None
) -> Iterator[tuple[Place, Any, Place]]:
    """Batches across epochs: each with its own place, and with that of the next.

    Args:
        batches: The data.
        place: Epoch and batch to begin with.
        steps: Number of batches.
        epochs: Number of whole epochs instead, if given.
    """
    epoch, skip = place
    last, done = epoch + epochs if epochs is not None else None, 0
    while last is None or epoch < last:
        entries = enumerate(batches(epoch))
        held = next(entries, None)
        while held is not None:  # one batch ahead, so that the end of an epoch is known
            (index, batch), held = held, next(entries, None)
            if index < skip:
                continue
            after = (epoch, index + 1) if held is not None else (epoch + 1, 0)
            yield (epoch, index), batch, after
            done += 1
            if last is None and done == steps:
                return
        epoch, skip = epoch + 1, 0


def leave_out(layers: Mapping[str, Any], kept: Mapping[str, Tensor]) -> None:
    """Have layers compute without the rows and columns of which nothing is kept.

    Args:
        layers: Weight name to Bayesian layer.
        kept: Weight name to booleans that broadcast to it; a layer without an entry is whole.
    """
    for name, layer in layers.items():
        layer.live = None
        if name not in kept or not layer.cuttable:
            continue
        mask = (
            kept[name].expand_as(layer.weight).flatten(2).any(-1)
            if kept[name].dim() > 2
            else (kept[name].expand_as(layer.weight))
        )
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if layer.bias is not None and bool(layer.bias[~mask.any(1)].any()):
            rows = torch.arange(len(mask), device=mask.device)  # a bias without weights still acts
        # A layer of which nothing is left is computed in full: convolutions need a channel.
        if 0 < len(rows) * len(columns) < WORTH_CUTTING * mask.numel():
            layer.live = (rows, columns)


@torch.no_grad()
def add_divergence(layers: Mapping[str, Any], precision: Mapping[str, Tensor], pull: float) -> None:
    """Add ``pull`` times the gradient of each layer's divergence to the gradients there are."""
    for name, layer in layers.items():
        mean, log_sigma = layer.weight, layer.weight_log_sigma
        if mean.grad is not None:  # None where the loss did not reach the layer
            mean.grad.addcmul_(precision[name], mean, value=pull)
        if log_sigma.grad is None:  # also on steps that leave the log sigmas as they are
            continue
        variance = layer.variance
        if variance is None:
            variance = log_sigma.mul(2).exp_()
        log_sigma.grad.addcmul_(precision[name], variance, value=pull).sub_(pull)


def dead_entries(graph: Graph) -> dict[str, Tensor]:
    """Parameter name to booleans that broadcast to it: entries of removed units."""
    entries: list[tuple[str, tuple[Slot, ...], int, int]] = [
        (name, gated.slots, gated.cost.dim(), 0) for name, gated in graph.gated.items()
    ]
    for name, matrix in graph.matrices.items():
        sites = matrix.sites
        entries.append((name, matrix.slots, len(sites.weight_shape), sites.rank - 2))
    dead: dict[str, Tensor] = {}
    for name, slots, rank, shift in entries:
        for slot in slots:
            removed = (graph.fields[slot.group] <= REMOVED).float()
            here = replace(slot, dim=slot.dim - shift).spread(removed, rank, 0.0) > 0
            dead[name] = dead[name] | here if name in dead else here
    return dead


@torch.no_grad()
def silence(model: nn.Module, name: str, gone: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    getattr(module, leaf).masked_fill_(gone, 0.0)
    log_sigma = module._parameters.get(f"{leaf}_log_sigma")
    if log_sigma is not None:
        log_sigma.masked_fill_(gone, DEAD_LOG_SIGMA)


def _blame(run: Run, what: str) -> str:
    for name, parameter in run.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"{what}: parameter {name} is not finite; lower learning_rate or sigma_rate"
    return f"{what}: all parameters are finite; look at the data or lower learning_rate"
