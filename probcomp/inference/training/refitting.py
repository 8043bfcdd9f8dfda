"""Fine-tuning of the survivors with the masks fixed."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError
from probcomp.inference.training.weights import BatchSource, Loss


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
    epochs: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    first_epoch: int = 0,
) -> list[float]:
    """Train the kept weights, in place; what a mask leaves out stays exactly zero.

    Args:
        model: Changed in place.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        masks: Parameter name to booleans that broadcast to it.
        epochs: Passes over the data.
        learning_rate: AdamW step, falling to zero along a half cosine.
        weight_decay: Decoupled weight decay.
        first_epoch: Number of the first epoch, so that batches differ from earlier ones.

    Returns:
        Mean loss of each epoch.

    Raises:
        DivergenceError: The loss is not finite.
    """
    apply_masks(model, masks)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    model.train()
    history = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        total, count = 0.0, 0
        for batch in batches(first_epoch + epoch):
            optimizer.zero_grad(set_to_none=True)
            value = loss(model, batch)
            total, count = total + value.item(), count + 1
            if not math.isfinite(total):
                raise DivergenceError(
                    f"the loss is not finite in refit epoch {epoch}; lower refit_rate"
                )
            value.backward()
            optimizer.step()
            apply_masks(model, masks)
        history.append(total / max(count, 1))
    model.eval()
    return history
