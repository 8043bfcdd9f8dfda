"""The likelihood behind a loss, recognised by its value."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian, Likelihood
from probcomp.evidence.products import at_least_single
from probcomp.recipes.post_config import example_of
from probcomp.recipes.task import Task, Tensors, default_criterion, logits_of

LOOKED = 8
"""Samples whose loss tells the likelihood."""
CLOSE = 1e-3
"""Relative difference of two ways to compute one loss in single precision."""


def recognised(task: Task, model: nn.Module, samples: Tensors) -> Likelihood | None:
    """The likelihood behind a task's loss: `likelihood_of` samples with targets, of all lengths."""
    return likelihood_of(task, model, example_of(with_targets(samples), LOOKED))


def likelihood_of(task: Task, model: nn.Module, batch: Any) -> Likelihood | None:
    """The likelihood behind a task's loss, or ``None`` where it is none that is known.

    Losses are recognised by their value, those of a model's own and those of a user's: the
    cross-entropy of the logits at the labels, or at the next ones; of real targets the squared
    error, halved and summed over outputs, or its mean.
    """
    if task.likelihood is not None:
        return task.likelihood
    targets = task.targets(batch)
    if targets is None:
        return None
    with torch.no_grad():
        outputs = task.run(model, batch)
        loss: Any = None
        if task.criterion is not None:
            loss = task.criterion(outputs, batch if isinstance(batch, dict) else batch[-1])
        elif isinstance(batch, dict):
            loss = getattr(outputs, "loss", None)
        else:
            loss = default_criterion(at_least_single(logits_of(outputs)), targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return None
        try:
            return _matching(at_least_single(logits_of(outputs)), targets, loss)
        except InputError:  # a loss of the user's own may need no logits
            return None


def with_targets(samples: Tensors) -> Tensors:
    """The samples whose loss is a mean over something: those with a label that counts.

    All of them where labels are no integers, or where none of them counts.
    """
    targets = samples.get("labels") if isinstance(samples, Mapping) else samples[-1]
    if targets is None or targets.is_floating_point():
        return samples
    counted = targets != IGNORED
    if targets.dim() > 1:  # a causal model is not asked for the first
        counted = (counted[:, 1:] if targets.shape[1] > 1 else counted).flatten(1).any(1)
    if bool(counted.all()) or not bool(counted.any()):
        return samples
    if isinstance(samples, Mapping):
        return {name: tensor[counted.to(tensor.device)] for name, tensor in samples.items()}
    return tuple(tensor[counted.to(tensor.device)] for tensor in samples)


def _matching(logits: Tensor, targets: Tensor, loss: Tensor) -> Likelihood | None:
    # a loss in half precision is known to its rounding
    close = max(CLOSE, torch.finfo(loss.dtype).eps) if loss.is_floating_point() else CLOSE
    for candidate in _candidates(logits, targets):
        if math.isclose(float(candidate.loss(logits, targets)), float(loss), rel_tol=close):
            return candidate
    return None


def _candidates(logits: Tensor, targets: Tensor) -> Iterator[Gaussian | Categorical]:
    if targets.is_floating_point():
        if logits.dim() > 1 and logits.shape in (targets.shape, (*targets.shape, 1)):
            yield Gaussian()
            yield Gaussian(deviation=math.sqrt(logits[0].numel() / 2))  # mean squared error
    elif logits.shape[:-1] == targets.shape:
        yield Categorical(unit="sample" if targets.dim() == 1 else "token")
        if targets.dim() > 1:
            yield Categorical(shift=True, unit="token")


def probe_of(
    task: Task, likelihood: Likelihood | None, probes: int, generator: torch.Generator
) -> Callable[[Any, Any], list[Tensor]] | None:
    if likelihood is None or probes == 0:
        return None

    def probe(outputs: Any, batch: Any) -> list[Tensor]:
        output, targets = task.output(outputs, batch), task.targets(batch)
        assert targets is not None
        return [likelihood.probe(output, targets, generator) for _ in range(probes)]

    return probe
