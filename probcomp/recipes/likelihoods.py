"""The likelihood behind a loss, recognised by its value."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence.fisher import Categorical, Gaussian, Likelihood
from probcomp.recipes.task import Task, default_criterion, logits_of


def likelihood_of(task: Task, model: nn.Module, batch: Any) -> Likelihood | None:
    """The likelihood behind a task's loss, or ``None`` where it is none that is known.

    A model that computes its own loss is recognised by its value: the cross-entropy of its logits
    at the labels, or at the next ones.
    """
    if task.likelihood is not None or task.criterion is not None:
        return task.likelihood
    targets = task.targets(batch)
    with torch.no_grad():
        outputs = task.run(model, batch)
    if targets is None:
        return None
    if not isinstance(batch, dict):
        if targets.is_floating_point():
            return Gaussian()
        return _matching(logits_of(outputs), targets, None)
    loss = getattr(outputs, "loss", None)
    return None if loss is None else _matching(logits_of(outputs), targets, float(loss))


def _matching(logits: Tensor, targets: Tensor, loss: float | None) -> Likelihood | None:
    if loss is None:
        loss = float(default_criterion(logits, targets))
        if logits.dim() != targets.dim() + 1 or logits.shape[:-1] != targets.shape:
            return None
    for candidate in (Categorical(), Categorical(shift=True, unit="token")):
        if logits.shape[:-1] != targets.shape or (candidate.shift and targets.dim() < 2):
            continue
        if math.isclose(float(candidate.loss(logits, targets)), loss, rel_tol=1e-3):
            return candidate if targets.dim() == 1 else replace(candidate, unit="token")
    return None


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
