"""Thresholds of group methods that their authors set by hand, read off the training loss."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.gating import Gate
from probcomp.inference.training.weights import BatchSource, Loss, rows

SAMPLES = 4096
"""Training samples that the loss is read on."""


@torch.no_grad()
def by_loss(
    model: nn.Module,
    gates: Sequence[Gate],
    scores: Mapping[str, Tensor],
    batches: BatchSource,
    loss: Loss,
    tolerance: float,
) -> dict[str, float]:
    """For each place the highest threshold at which removal costs next to nothing.

    Where the scores of needed and needless groups lie apart this is a point between them. Places
    are taken one after another, in the order of the layers, each with an equal share of the
    tolerance; how many may go is found by bisection. Groups of one score stay or go together, and
    those of the highest stay.

    Args:
        model: With the mean scales in its weights, which are as before afterwards, also where the
            loss raises; left in evaluation mode.
        gates: Those of all places.
        scores: Place name to scores, [size].
        batches: Training data, of which some thousand samples are used.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        tolerance: By how much the mean loss may rise in all, nats for each sample.

    Returns:
        Place name to threshold: groups whose score is at most this go.
    """
    model.eval()
    sample = _some(batches)
    dense = _mean(model, sample, loss)
    found: dict[str, float] = {}
    before: dict[Any, Tensor] = {}
    try:
        for done, gate in enumerate(gates):
            values = scores[gate.place.name]
            order = values.unique()  # ascending
            weights: dict[str, Any] = {
                reader.layer: model.get_submodule(reader.layer).weight
                for reader in gate.place.readers
            }
            kept = {name: weight.clone() for name, weight in weights.items()}
            for name, weight in weights.items():
                before.setdefault(weight, kept[name])
            allowed = dense + tolerance * (done + 1) / len(gates)

            def without(count: int, gate: Gate = gate, kept: Any = kept, values: Tensor = values,
                        weights: Any = weights, order: Tensor = order) -> float:  # fmt: skip
                alive = (values > order[count - 1]).float() if count else torch.ones_like(values)
                for name, weight in weights.items():
                    weight.copy_(kept[name])
                for reader in gate.place.readers:
                    weight = weights[reader.layer]
                    weight.mul_(reader.spread(alive, 1.0).reshape(1, -1, *[1] * (weight.dim() - 2)))
                return _mean(model, sample, loss)

            low, high = 0, len(order) - 1
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if without(middle) <= allowed else (low, middle - 1)
            without(low)  # places after this one are judged without what goes here
            found[gate.place.name] = float(order[low - 1]) if low else float(order[0]) - 1.0
    finally:
        for weight, values in before.items():
            weight.copy_(values)
    return found


def _some(batches: BatchSource) -> list[Any]:
    """The first batches of an epoch, some thousand samples."""
    first = next(iter(batches(0)))
    return list(islice(iter(batches(0)), max(1, SAMPLES // rows(first))))


def _mean(model: nn.Module, sample: Sequence[Any], loss: Loss) -> float:
    total = sum(float(loss(model, batch)) * rows(batch) for batch in sample)
    return total / sum(rows(batch) for batch in sample)
