r"""Curvature of the loss in each weight: the precision of a diagonal Laplace posterior."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from probcomp.errors import InputError

CHUNK = 128
"""Samples whose gradients are held at once."""


def curvature(
    model: nn.Module, inputs: Tensor, *, total: int, samples: int = 2048, seed: int = 0
) -> dict[str, Tensor]:
    r"""Diagonal Fisher information of a classifier, times the size of its data set.

        h_n = total / S sum_s (d/dw_n log p(y_s | x_s))^2,   y_s drawn from the model itself

    so that ``1 / h_n`` is the variance of the diagonal Laplace posterior under a flat prior
    (labels from the model, not the data: where the fit is good the data's gradients vanish and
    their squares say nothing about curvature; Kunstner, Balles and Hennig 2019).

    Args:
        model: Maps [batch, ...] to logits [batch, classes]; run in evaluation mode, not changed.
        inputs: [n, ...]; a random part of them is used.
        total: Samples in the data set whose loss is meant.
        samples: Inputs used.
        seed: Seed of the part and of the labels.

    Returns:
        Parameter name to curvatures, nats per squared unit.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(inputs), generator=generator)[:samples]
    training = model.training
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, (values, buffers), (x[None],))
        return F.cross_entropy(logits, y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    try:
        for part in chosen.split(CHUNK):
            x = inputs[part]
            with torch.no_grad():
                logits = model(x)
            if logits.dim() != 2:
                raise InputError(f"expected logits [batch, classes], got {tuple(logits.shape)}")
            y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            for name, gradient in each(parameters, x, y).items():
                sums[name] += gradient.square().sum(0)
    finally:
        model.train(training)
    return {name: value * (total / len(chosen)) for name, value in sums.items()}
