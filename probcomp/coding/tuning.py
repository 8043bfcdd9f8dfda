"""Training what a file holds: codebooks by the gradients of the weights that share them."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.coding.quantise import Quantised, as_half, write_values
from probcomp.data.epochs import EpochBatches, default_loss
from probcomp.errors import DivergenceError


def tune(
    quantised: Quantised,
    batches: EpochBatches,
    *,
    epochs: int,
    rate: float = 1e-3,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    first_epoch: int = 0,
) -> Quantised:
    """Train the values of each codebook with the indices fixed (Han, Mao and Dally 2016, sec. 3).

    The gradient of a value is the sum over the weights that share it. Adam, with the rate falling
    to zero along a half cosine; norms keep their statistics. Values are rounded to float16 at the
    end, and two that meet are still counted apart.

    Args:
        quantised: Not changed. Parameters that are frozen have codebooks that are trained alike.
        batches: ``batches(epoch)`` iterates over seeded batches.
        epochs: Passes over the data; 0 returns what was given, as where all values are zero.
        rate: First step of Adam.
        loss: ``loss(model, batch)``, mean nats for each sample; cross-entropy by default.
        first_epoch: Number of the first epoch, for the order of the samples.

    Raises:
        DivergenceError: The loss is not finite.
    """
    if not epochs:
        return quantised
    loss = loss or default_loss
    model = copy.deepcopy(quantised.model).eval()
    parameters = dict(model.named_parameters())
    books = {n: nn.Parameter(b.clone()) for n, b in quantised.books.items() if b.numel()}
    if not books:
        return quantised
    flat = {n: quantised.index[n].flatten() for n in books}
    kept = {n: i >= 0 for n, i in flat.items()}
    frozen = [n for n in books if not parameters[n].requires_grad]
    for name in books:
        parameters[name].requires_grad_(True)
    optimiser = torch.optim.Adam(books.values(), rate)
    count = sum(1 for _ in batches(first_epoch))
    step = 0
    for epoch in range(first_epoch, first_epoch + epochs):
        for batch in batches(epoch):
            fall = 0.5 * (1 + math.cos(math.pi * step / (epochs * count)))
            optimiser.param_groups[0]["lr"] = rate * fall
            model.zero_grad(set_to_none=True)
            value = loss(model, batch)
            if not torch.isfinite(value):
                raise DivergenceError(f"the loss is {value.item()} while tuning codebooks")
            value.backward()
            with torch.no_grad():
                for name, trained in books.items():
                    gradient = parameters[name].grad
                    trained.grad = torch.zeros_like(trained)
                    if gradient is not None:
                        on = kept[name]
                        trained.grad.index_add_(0, flat[name][on], gradient.flatten()[on])
                optimiser.step()
                for name, trained in books.items():
                    write_values(parameters[name], trained, quantised.index[name])
            step += 1
    tuned = {n: as_half(b.detach()) for n, b in books.items()}
    with torch.no_grad():
        for name, book in tuned.items():
            write_values(parameters[name], book, quantised.index[name])
    model.zero_grad(set_to_none=True)
    for name in frozen:
        parameters[name].requires_grad_(False)
    return Quantised(model, {**quantised.books, **tuned}, quantised.index)
