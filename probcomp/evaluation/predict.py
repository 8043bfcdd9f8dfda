"""Predictions of a classifier on a test set: collected once, then measured in many ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError

Samples = Sequence[Tensor] | Mapping[str, Tensor]
"""A data set: ``(inputs, targets)``, several inputs allowed, or named tensors with ``labels``."""


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities and targets of every test sample, on the CPU in float64.

    Attributes:
        log_probability: [samples, classes], natural logarithms, rows sum to one after ``exp``.
        targets: [samples], integer classes.
    """

    log_probability: Tensor
    targets: Tensor

    @property
    def correct(self) -> Tensor:
        """[samples], true where the most probable class is the target."""
        return self.log_probability.argmax(1) == self.targets

    @property
    def nll(self) -> Tensor:
        """[samples], negative log-likelihood of the target in nats."""
        return -self.log_probability.gather(1, self.targets[:, None]).squeeze(1)


def predict(model: nn.Module, samples: Samples, *, batch_size: int = 512) -> Predictions:
    """Run ``model`` in evaluation mode over ``samples``; its training flags are restored.

    Args:
        model: returns logits [batch, classes], or an object or mapping with ``logits``.
        samples: ``(inputs, targets)``, or named tensors including ``labels`` (which the model is
            not given).
        batch_size: samples per forward pass; memory only, the result does not depend on it.

    Raises:
        InputError: no samples, targets that are not classes of the output, outputs not finite.
    """
    inputs, targets = _split(samples)
    count = targets.shape[0]
    if count == 0:
        raise InputError("the test set is empty; at least one sample is needed")
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    parts = []
    try:
        with torch.no_grad():
            for start in range(0, count, batch_size):
                logits = _forward(model, inputs, slice(start, start + batch_size), place)
                parts.append(logits.double().log_softmax(-1).cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    scores = torch.cat(parts)
    _check(scores, targets)
    return Predictions(scores, targets.long().cpu())


def _split(samples: Samples) -> tuple[Sequence[Tensor] | dict[str, Tensor], Tensor]:
    if isinstance(samples, Mapping):
        if "labels" not in samples:
            raise InputError(f"named samples need 'labels'; got {', '.join(samples) or 'nothing'}")
        return {k: v for k, v in samples.items() if k != "labels"}, samples["labels"]
    return samples[:-1], samples[-1]


def _forward(model: nn.Module, inputs: Any, rows: slice, place: torch.device) -> Tensor:
    if isinstance(inputs, Mapping):
        output = model(**{name: value[rows].to(place) for name, value in inputs.items()})
    else:
        output = model(*(tensor[rows].to(place) for tensor in inputs))
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        output = output[0] if output else None  # as the loss reads them
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(f"the model returned {type(output).__name__}, which has no logits")
    return logits


def _check(scores: Tensor, targets: Tensor) -> None:
    if scores.dim() != 2 or targets.dim() != 1 or targets.is_floating_point():
        got = f"outputs {tuple(scores.shape)}, targets {tuple(targets.shape)} {targets.dtype}"
        raise InputError(f"accuracy needs logits [samples, classes] and integer targets; got {got}")
    if not torch.isfinite(scores).all():
        raise InputError("the model's outputs are not finite; check its weights and its inputs")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= scores.shape[1]:
        raise InputError(
            f"targets run from {low} to {high}, but the model has {scores.shape[1]} classes"
        )
