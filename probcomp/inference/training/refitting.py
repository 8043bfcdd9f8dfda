"""Fine-tuning of the survivors with the masks fixed."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError
from probcomp.inference.training.weights import BatchSource, Loss, Place, stream

STEPS = 920
EPOCHS = 8
"""Length of a refit where none is given: at least so many batches and passes over the data."""


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero what the masks leave out, in place. A mask broadcasts to its parameter."""
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)


def refit(
    model: nn.Module,
    batches: BatchSource,
    *,
    loss: Loss,
    masks: Mapping[str, Tensor],
    learning_rate: float,
    steps: int | None = None,
    epochs: int | None = None,
    weight_decay: float = 0.0,
    place: Place = (0, 0),
) -> list[float]:
    """Train the kept weights, in place; what a mask leaves out stays exactly zero.

    Args:
        model: Changed in place.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        masks: Parameter name to booleans that broadcast to it.
        learning_rate: AdamW step, falling to zero along a half cosine.
        steps: Number of batches; ``None`` for the larger of 920 and eight passes.
        epochs: Passes over the data, in the place of ``steps``.
        weight_decay: Decoupled weight decay.
        place: Epoch and batch to begin with, so that batches differ from earlier ones.

    Returns:
        Mean loss of each epoch; the first and the last may be cut.

    Raises:
        DivergenceError: The loss is not finite.
    """
    apply_masks(model, masks)
    if epochs is not None or steps is None:
        length = sum(1 for _ in batches(place[0]))
        steps = epochs * length if epochs is not None else max(STEPS, EPOCHS * length)
    if epochs is not None:
        place = (place[0] + (place[1] > 0), 0)
    if steps == 0:
        return []
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    model.train()
    history: list[list[float]] = [[]]
    for done, ((epoch, _), batch, after) in enumerate(stream(batches, place, steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * done / steps))
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, batch)
        history[-1].append(value.item())
        if not math.isfinite(history[-1][-1]):
            raise DivergenceError(
                f"the loss is not finite in refit epoch {epoch}; lower refit_rate"
            )
        value.backward()
        optimizer.step()
        apply_masks(model, masks)
        if after[1] == 0:
            history.append([])
    model.eval()
    return [sum(values) / len(values) for values in history if values]
