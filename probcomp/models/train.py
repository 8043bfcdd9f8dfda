"""A plain, deterministic training loop: Adam with a cosine schedule."""

import math
from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.data.epochs import EpochBatches, default_loss
from probcomp.errors import DivergenceError, InputError
from probcomp.progress import progress as progress_bar


def train(
    model: nn.Module,
    batches: EpochBatches,
    *,
    epochs: int,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    progress: bool = False,
    title: str = "training",
) -> list[float]:
    """Train ``model`` in place, and leave it in evaluation mode.

    AdamW (Loshchilov and Hutter 2019) with the learning rate falling from ``lr`` to 0 as half a
    cosine. The same seed gives the same result on the same machine; torch's global random state
    is as before afterwards.

    Args:
        model: the network.
        batches: ``batches(epoch)`` yields the mini-batches of an epoch.
        epochs: passes over the data.
        lr: first learning rate.
        weight_decay: decoupled decay per step, times the learning rate.
        seed: seed of dropout and other random layers; the order of samples is in ``batches``.
        loss: ``loss(model, batch)``, mean nats per sample; by default cross-entropy for
            ``(inputs, targets)`` and the model's own ``loss`` for named tensors.
        progress: show a bar on standard error.
        title: text of the bar.

    Returns:
        Mean training loss of each epoch, nats per sample.

    Raises:
        DivergenceError: a loss that is not finite, naming the step.
        InputError: settings out of range.
    """
    if epochs < 1 or not (lr > 0 and math.isfinite(lr)):
        raise InputError(f"expected epochs >= 1 and lr > 0, got epochs={epochs}, lr={lr}")
    loss = loss or default_loss
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    place = next(model.parameters()).device
    devices = [place] if place.type == "cuda" else []
    history: list[float] = []
    step = 0
    model.train()
    with (
        torch.random.fork_rng(devices=devices),
        progress_bar(title, epochs, show=progress) as advance,
    ):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = 0.0
            for batch in batches(epoch):
                share = step / (epochs * _length(batches))
                for group in optimiser.param_groups:
                    group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
                optimiser.zero_grad(set_to_none=True)
                batch = _move(batch, place)
                value = loss(model, batch)
                if not torch.isfinite(value):
                    raise DivergenceError(
                        f"training loss is {value.item()} at step {step} (epoch {epoch}); "
                        f"lower lr={lr:g} or check the data"
                    )
                value.backward()
                optimiser.step()
                total += value.item() * _samples(batch)
                step += 1
            history.append(total / batches.samples)
            advance(f"loss {history[-1]:.4f}")
    model.eval()
    return history


def _length(batches: EpochBatches) -> int:
    return len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches(0))


def _samples(batch: Any) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


def _move(batch: Any, place: torch.device) -> Any:
    if isinstance(batch, dict):
        return {name: tensor.to(place) for name, tensor in batch.items()}
    return tuple(tensor.to(place) for tensor in batch)
