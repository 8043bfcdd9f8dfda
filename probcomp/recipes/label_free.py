"""Data without targets: what the model is for is found out, and targets are made from it.

Causal language models get the next token of the text. Everything else is asked to agree with the
dense model itself (self-distillation): classifiers with its probabilities, masked language models
with tokens drawn from its predictions, encoders without a head with their mean-pooled embedding,
and other networks with their outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.recipes.task import Task, Tensors, logits_of

BATCH = 32
CAUSAL_TOLERANCE = 1e-4
"""Largest change of earlier outputs, over their scale, when a later token changes: rounding."""


@dataclass(frozen=True)
class LabelFree:
    """A task found for data without targets.

    Attributes:
        task: How outputs are scored.
        train: The training samples with targets.
        held: The held-out samples with targets.
        words: The task in a sentence.
    """

    task: Task
    train: Tensors
    held: Tensors
    words: str


def label_free(model: nn.Module, train: Tensors, held: Tensors, *, seed: int) -> LabelFree:
    """Find the task of a model and make targets for both parts of the data.

    Raises:
        InputError: The model does not run on the data, or returns no tensor.
    """
    batch = Batches(train, shuffle=False).example(2)
    outputs = _try(model, batch)
    if isinstance(train, Mapping) and isinstance(held, Mapping) and "input_ids" in train:
        logits = getattr(outputs, "logits", None)
        if isinstance(logits, Tensor) and logits.dim() == 3:
            return _tokens(model, train, held, seed)
        if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] > 1:
            return _classes(model, train, held)
        if logits is None and hasattr(outputs, "last_hidden_state"):
            return _pooled(model, train, held)
    return _outputs(model, train, held)


def is_causal(model: nn.Module, ids: Tensor) -> bool:
    """Whether a change of the last token leaves all earlier outputs as they were."""
    changed = ids.clone()
    changed[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
    first, second = (logits_of(_try(model, {"input_ids": i})) for i in (ids, changed))
    difference = float((first - second)[:, :-1].abs().max())
    return difference <= CAUSAL_TOLERANCE * float(first.abs().max())


def reads_causally(model: nn.Module, vocabulary: int) -> bool:
    """Whether a model of tokens is a causal language model, by trying it on a few of them."""
    ids = (torch.arange(16).view(2, 8) * 7 + 1) % vocabulary
    outputs = _try(model, {"input_ids": ids})
    logits = getattr(outputs, "logits", None)
    return isinstance(logits, Tensor) and logits.dim() == 3 and is_causal(model, ids)


def _try(model: nn.Module, batch: Any) -> Any:
    training = model.training
    try:
        with torch.no_grad():
            return model.eval()(**batch) if isinstance(batch, dict) else model(*batch)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        named = batch.items() if isinstance(batch, dict) else enumerate(batch)
        shapes = ", ".join(f"{key}: {tuple(t.shape)} {t.dtype}" for key, t in named)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the model does not run on the data ({shapes}): {reason}") from error
    finally:
        model.train(training)


def _tokens(
    model: nn.Module, train: Mapping[str, Tensor], held: Mapping[str, Tensor], seed: int
) -> LabelFree:
    ids = train["input_ids"]
    if ids.shape[1] < 3:
        raise InputError(f"texts of {ids.shape[1]} tokens are too short; 3 at least are needed")
    if is_causal(model, ids[:2]):
        parts = [{**p, "labels": _real(p, p["input_ids"])} for p in (train, held)]
        task = Task(likelihood=Categorical(shift=True, unit="token"), feeds_labels=False)
        words = "Without targets: the loss is the cross-entropy of the next token of the text."
        return LabelFree(task, parts[0], parts[1], words)
    generator = torch.Generator().manual_seed(seed)

    def draw(batch: dict[str, Tensor]) -> Tensor:
        logits = logits_of(model(**batch)).float()
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
        return drawn.view(logits.shape[:2])

    parts = [{**p, "labels": _real(p, _each(model, p, draw))} for p in (train, held)]
    task = Task(likelihood=Categorical(unit="token"), feeds_labels=False)
    words = (
        "Without targets: tokens drawn from the dense model's own predictions are the targets, so "
        "the loss increase estimates the divergence from the dense model."
    )
    return LabelFree(task, parts[0], parts[1], words)


def _real(part: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    mask = part.get("attention_mask")
    return labels if mask is None else labels.masked_fill(mask == 0, IGNORED)


def _classes(
    model: nn.Module, train: Mapping[str, Tensor], held: Mapping[str, Tensor]
) -> LabelFree:
    def soft(batch: dict[str, Tensor]) -> Tensor:
        return logits_of(model(**batch)).softmax(-1)

    parts = [{**p, "labels": _each(model, p, soft)} for p in (train, held)]
    task = Task(likelihood=Categorical(soft=True), feeds_labels=False)
    words = (
        "Without targets: the dense model's class probabilities are the targets, and the loss is "
        "the divergence from them."
    )
    return LabelFree(task, parts[0], parts[1], words)


def _pooled(model: nn.Module, train: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> LabelFree:
    task = Task(pooled=True, feeds_labels=False)

    def embed(batch: dict[str, Tensor]) -> Tensor:
        return task.output(model(**batch), batch)

    parts = [{**p, "labels": _each(model, p, embed)} for p in (train, held)]
    task = Task(likelihood=_gaussian(parts[0]["labels"]), pooled=True, feeds_labels=False)
    words = (
        "Without targets: the dense model's embeddings (mean of the last hidden states) are the "
        "targets; the loss is half the squared distance over the variance of one coordinate."
    )
    return LabelFree(task, parts[0], parts[1], words)


def _outputs(model: nn.Module, train: Tensors, held: Tensors) -> LabelFree:
    def run(batch: Any) -> Tensor:
        return logits_of(model(**batch) if isinstance(batch, dict) else model(*batch))

    targets = [_each(model, part, run) for part in (train, held)]
    task = Task(likelihood=_gaussian(targets[0]), feeds_labels=False)
    words = (
        "Without targets: the dense model's outputs are the targets; the loss is half the squared "
        "distance over the variance of one coordinate."
    )
    if isinstance(train, Mapping) and isinstance(held, Mapping):
        first: Tensors = {**train, "labels": targets[0]}
        second: Tensors = {**held, "labels": targets[1]}
    else:
        first, second = (*_tuple(train), targets[0]), (*_tuple(held), targets[1])
    return LabelFree(task, first, second, words)


def _tuple(part: Tensors) -> tuple[Tensor, ...]:
    return tuple(part.values()) if isinstance(part, Mapping) else tuple(part)


def _gaussian(outputs: Tensor) -> Gaussian:
    """One deviation for all coordinates: the root of their mean variance over the samples."""
    variance = outputs.double().var(0, correction=0).mean() if len(outputs) > 1 else None
    if variance is None or not float(variance) > 0:
        raise InputError(
            "the dense model's outputs do not vary over the calibration samples; give more of them"
        )
    return Gaussian(float(variance.sqrt()))


def _each(model: nn.Module, part: Tensors, made: Any) -> Tensor:
    """One value for each sample, in batches, in evaluation mode and without gradients."""
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            return torch.cat([made(b) for b in Batches(part, BATCH, shuffle=False)(0)])
    finally:
        model.train(training)
