"""Magnitude pruning: keep the largest weights, then fine-tune them with the mask fixed.

Han, Pool, Tran and Dally (2015), "Learning both weights and connections for efficient neural
networks", in its one-shot form: they alternate pruning and retraining a few times, here there is
one cut and one refit. ``global`` ranks all layers together; ``uniform`` keeps the same share of
each layer.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.training.refitting import refit
from probcomp.inference.training.weights import BatchSource, Loss

Scope = Literal["global", "uniform"]


@dataclass(frozen=True)
class MagnitudeResult:
    """A pruned and refitted model.

    Attributes:
        model: Dense-shaped, zero outside the masks.
        masks: Weight name to booleans of its shape.
        refit_history: Mean training loss of each refit epoch, nats for each sample.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    refit_history: list[float]


def magnitude_masks(
    model: nn.Module,
    nonzeros: int,
    *,
    scope: Scope = "global",
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Masks of the ``nonzeros`` largest weights; ties go to the earlier position.

    Args:
        model: Where the weights are.
        nonzeros: How many weights stay, over all masked parameters; met exactly.
        scope: Rank all layers together, or each by itself at the same share. A uniform share is
            rounded down in each layer; the weights left over go to the largest remainders.
        names: Parameters to mask; by default every weight of two or more dimensions.

    Raises:
        InputError: An unknown name or scope, or more weights than there are.
    """
    parameters = dict(model.named_parameters())
    if names is None:
        names = [name for name, p in parameters.items() if p.dim() >= 2]
    missing = [name for name in names if name not in parameters]
    if missing or not names:
        raise InputError(f"nothing to mask: got {missing or 'no names'}, have {sorted(parameters)}")
    sizes = {name: parameters[name].numel() for name in names}
    total = sum(sizes.values())
    if not 0 <= nonzeros <= total:
        raise InputError(f"nonzeros must be between 0 and {total}, got {nonzeros}")
    values = {name: parameters[name].detach().abs().flatten() for name in names}
    if scope == "global":
        kept = _largest(torch.cat(list(values.values())), nonzeros)
        parts = kept.split(list(sizes.values()))
        flat = dict(zip(names, parts, strict=True))
    elif scope == "uniform":
        exact = {name: nonzeros * size / total for name, size in sizes.items()}
        counts = {name: math.floor(share) for name, share in exact.items()}
        by_remainder = sorted(names, key=lambda n: counts[n] - exact[n])
        for name in by_remainder[: nonzeros - sum(counts.values())]:
            counts[name] += 1
        flat = {name: _largest(values[name], counts[name]) for name in names}
    else:
        raise InputError(f"scope must be 'global' or 'uniform', got {scope!r}")
    return {name: mask.reshape(parameters[name].shape) for name, mask in flat.items()}


def _largest(values: Tensor, count: int) -> Tensor:
    order = torch.argsort(values, descending=True, stable=True)
    return torch.zeros_like(values, dtype=torch.bool).index_fill(0, order[:count], True)


def magnitude(
    model: nn.Module,
    batches: BatchSource,
    *,
    loss: Loss,
    nonzeros: int,
    scope: Scope = "global",
    names: Sequence[str] | None = None,
    epochs: int = 40,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> MagnitudeResult:
    """Prune by magnitude and refit, with the refit that Turbo-VBI uses.

    Args:
        model: Pretrained; not changed.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        nonzeros: How many weights stay.
        scope: See `magnitude_masks`.
        names: See `magnitude_masks`.
        epochs: Refit epochs.
        learning_rate: Refit step.
        weight_decay: Refit weight decay.
        seed: Seed of the model's own randomness (dropout).
    """
    masks = magnitude_masks(model, nonzeros, scope=scope, names=names)
    pruned = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        history = refit(
            pruned,
            batches,
            loss=loss,
            masks=masks,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        )
    return MagnitudeResult(pruned.train(model.training), masks, history)
