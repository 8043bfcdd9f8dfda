"""Targets drawn from the model, as the Fisher information needs them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.recipes.task import Task


def fisher_targets(
    task: Task,
) -> Callable[[nn.Module, Any, torch.Generator], Any] | None:
    """Draws the targets of a batch from the model, as the Fisher information needs them.

    Classes are drawn from the softmax of the outputs, real targets from a Gaussian of unit
    variance. ``None`` for a loss of the user's own, whose density is not known; a dict batch and
    classes of positions or pixels come back as they are. The data's own targets then give the
    empirical Fisher. Draws are made on the generator's device, and are the same on any other.
    """
    if task.criterion is not None:
        return None

    def resample(model: nn.Module, batch: Any, generator: torch.Generator) -> Any:
        if isinstance(batch, dict):
            return batch
        with torch.no_grad():
            logits = task.logits(model, batch)
        return (*batch[:-1], _draw(logits, batch[-1], generator))

    return resample


def _draw(logits: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    if targets.is_floating_point():
        return logits + torch.randn(logits.shape, generator=generator, device=generator.device).to(
            logits
        )
    if logits.dim() != 2:
        return targets  # positions or pixels: the data's own targets
    shares = logits.softmax(1).to(generator.device)
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)
