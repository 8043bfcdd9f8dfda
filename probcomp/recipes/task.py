"""What a model is for: how a batch is run, and what its outputs cost in nats."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)

from probcomp.data.batches import IGNORED as IGNORED
from probcomp.data.batches import Batch
from probcomp.errors import InputError
from probcomp.evidence.fisher import Likelihood

Tensors = Sequence[Tensor] | Mapping[str, Tensor]

MOST_ITERATED = 1_000_000
MOST_BYTES = 16 * 2**30
"""Samples, and bytes of them, after which an iterable data set is taken to have no end."""


@dataclass(frozen=True)
class Task:
    """Runs models on batches and scores their outputs.

    Attributes:
        criterion: ``criterion(outputs, targets) -> mean negative log-likelihood``, in nats for
            each sample; for dict batches it is called with the batch in the place of the targets.
            By default: the model's own ``outputs.loss`` for dict batches, cross-entropy for integer
            targets, and half the squared error (a Gaussian of unit variance) for real targets.
        likelihood: How the output tensor is scored against the targets, where that is known; it
            takes the place of the criterion and of the model's own loss.
        pooled: Whether the output tensor is the mean of the last hidden states over real tokens
            (encoders without a head), instead of the logits.
        feeds_labels: Whether the model is given the labels of a dict batch.
    """

    criterion: Callable[[Any, Any], Tensor] | None = None
    likelihood: Likelihood | None = None
    pooled: bool = False
    feeds_labels: bool = True

    @property
    def unit(self) -> str:
        """What a nat of the loss is counted for: ``sample`` or ``token``."""
        return "sample" if self.likelihood is None else self.likelihood.unit

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Outputs of the model on the inputs of a batch."""
        if not isinstance(batch, dict):
            return model(*batch[:-1])
        fed = batch if self.feeds_labels else {n: t for n, t in batch.items() if n != "labels"}
        return model(**fed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of a batch, nats for each sample."""
        outputs = self.run(model, batch)
        if self.likelihood is not None:
            targets = self.targets(batch)
            if targets is None:
                raise InputError("the batch has no labels")
            return self.likelihood.loss(self.output(outputs, batch), targets)
        if self.criterion is not None:
            return self.criterion(outputs, batch if isinstance(batch, dict) else batch[-1])
        if isinstance(batch, dict):
            loss = getattr(outputs, "loss", None)
            if loss is None:
                raise InputError(
                    "the model returned no loss: add 'labels' to the data, or pass loss="
                )
            return loss
        return default_criterion(logits_of(outputs), batch[-1])

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's output tensor on a batch."""
        return self.output(self.run(model, batch), batch)

    def output(self, outputs: Any, batch: Batch) -> Tensor:
        """The output tensor that is scored."""
        return pooled_of(outputs, batch) if self.pooled else logits_of(outputs)

    def terms(self, data: Tensors) -> int:
        """How many terms of the log-likelihood the mean loss is of, over all of the data.

        A sample each; for classes of positions or pixels each that has a target, unless a loss of
        the user's own, which is one for each sample, says otherwise. The first token of a text
        counts too, though a causal model is not asked for it.
        """
        batch: Any = data if isinstance(data, Mapping) else tuple(data)
        targets = batch.get("labels") if isinstance(batch, Mapping) else batch[-1]
        rows = len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])
        whole = self.criterion is not None or (
            self.likelihood is not None and self.unit == "sample"
        )
        if whole or targets is None or targets.is_floating_point() or targets.dim() < 2:
            return rows
        return max(int((targets != IGNORED).sum()), 1)

    @staticmethod
    def targets(batch: Batch) -> Tensor | None:
        """The targets of a batch, where it has any."""
        return batch.get("labels") if isinstance(batch, dict) else batch[-1]

    @staticmethod
    def inputs(batch: Batch) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """The inputs of a batch without its targets, as the structure tracer takes them."""
        if isinstance(batch, dict):
            return {name: tensor for name, tensor in batch.items() if name != "labels"}
        return tuple(batch[:-1])


def logits_of(outputs: Any) -> Tensor:
    """The output tensor: the outputs themselves, their ``logits``, or their first entry."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple | list) and outputs:
        logits = outputs[0]
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model returned {type(outputs).__name__}, which has no logits; pass loss="
        )
    return logits


def pooled_of(outputs: Any, batch: Batch) -> Tensor:
    """Mean of the last hidden states over the tokens that are not padding, [samples, width]."""
    hidden = getattr(outputs, "last_hidden_state", None)
    if hidden is None:
        hidden = logits_of(outputs)
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.flatten(1, -2).mean(1)
    weight = mask[:, :, None].to(hidden)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def default_criterion(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for integer targets, half the squared error for real ones; nats per sample."""
    if targets.is_floating_point():
        if logits.shape != targets.shape:
            raise InputError(
                f"outputs of shape {tuple(logits.shape)} do not fit targets of shape "
                f"{tuple(targets.shape)}"
            )
        return 0.5 * (logits - targets).square().flatten(1).sum(1).mean()
    if logits.dim() == 3 and targets.dim() == 2 and logits.shape[:2] == targets.shape:
        logits = logits.transpose(1, 2)  # [batch, position, class], as language models return
    if logits.dim() != targets.dim() + 1:
        raise InputError(
            f"outputs of shape {tuple(logits.shape)} do not fit integer targets of shape "
            f"{tuple(targets.shape)}: expected one class dimension more"
        )
    classes = logits.shape[1]
    if int(targets.max()) >= classes:
        raise InputError(
            f"targets go up to {int(targets.max())}, but the model has {classes} outputs"
        )
    return F.cross_entropy(logits, targets)


def as_tensors(data: Any) -> Tensors:
    """In-memory tensors from what users hold: tensors, a dict, a Dataset or a DataLoader.

    Of a loader its samples and its way to collate them are taken, in the order of the data; batches
    are made anew. An iterable data set is read once, to its end.

    Raises:
        InputError: Another type, an empty data set, an iterable one that goes on after
            ``MOST_ITERATED`` samples or ``MOST_BYTES``, or a loader whose sampler draws with
            replacement, draws part of the data, or makes batches in a way of its own.
    """
    collate = default_collate
    samples: list[Any] | None = None
    if isinstance(data, DataLoader):
        samples, collate = _loaded(data), data.collate_fn or collate
    elif isinstance(data, Mapping):
        return {str(name): torch.as_tensor(value) for name, value in data.items()}
    elif isinstance(data, tuple | list) and data and all(isinstance(t, Tensor) for t in data):
        return tuple(data)
    elif isinstance(data, Dataset):
        samples = _samples(data)
    if samples is None:
        raise InputError(
            f"data of type {type(data).__name__} is not understood: give (inputs, targets), a dict "
            "of tensors, a Dataset or a DataLoader"
        )
    if not samples:
        raise InputError("the data set holds no samples")
    stacked = collate(samples)
    return dict(stacked) if isinstance(stacked, Mapping) else tuple(stacked)


def _samples(data: Any) -> list[Any]:
    if isinstance(data, IterableDataset):
        return list(_iterated(data))
    return [data[i] for i in range(len(data))]


def _iterated(data: Any) -> Iterator[Any]:
    """The samples of an iterable data set, which tells nobody whether it ends."""
    used = 0
    for number, sample in enumerate(data):
        used += sum(getattr(leaf, "nbytes", 0) for leaf in tree_leaves(sample))
        if number >= MOST_ITERATED or used > MOST_BYTES:
            raise InputError(
                f"the iterable data set goes on after {number:,} samples ({used / 2**30:.1f} GiB), "
                "and data are held in memory; give a part of it, as tensors"
            )
        yield sample


def _loaded(loader: Any) -> list[Any]:
    """The samples that a loader goes through in an epoch, in the order of the data."""
    if loader.batch_size is None:
        own = "no batches" if loader.batch_sampler is None else "batches of its own"
        raise InputError(f"the DataLoader makes {own}: give the data set itself, or tensors")
    if isinstance(loader.dataset, IterableDataset):
        return _samples(loader.dataset)
    if isinstance(loader.sampler, SequentialSampler | RandomSampler | SubsetRandomSampler):
        drawn = getattr(loader.sampler, "num_samples", None)
        if getattr(loader.sampler, "replacement", False):
            raise InputError(
                "the DataLoader draws its samples with replacement, some of them again and others "
                "never; give the data set itself, or a Subset of it"
            )
        if drawn is not None and drawn != len(loader.dataset):
            raise InputError(
                f"the DataLoader draws {drawn:,} of {len(loader.dataset):,} samples, others in "
                "each epoch; give a Subset of the data set"
            )
        chosen = getattr(loader.sampler, "indices", range(len(loader.dataset)))
        return [loader.dataset[i] for i in sorted(chosen)]
    raise InputError(
        f"the DataLoader draws its samples by a {type(loader.sampler).__name__}; give the data set "
        "itself, or a Subset of it"
    )


def has_targets(data: Tensors) -> bool:
    """Whether samples carry targets: ``labels`` in a dict, a last tensor behind the inputs."""
    return "labels" in data if isinstance(data, Mapping) else len(data) > 1


def split(data: Tensors, share: float, seed: int) -> tuple[Tensors, Tensors]:
    """Two disjoint random parts; the second holds ``share`` of the samples, at least one."""
    tensors = list(data.values()) if isinstance(data, Mapping) else list(data)
    count = len(tensors[0])
    if count < 2:
        raise InputError(f"{count} sample cannot be split into training and test data")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(1, round(share * count))
    parts = []
    for index in (order[held:], order[:held]):
        picked = [tensor[index] for tensor in tensors]
        parts.append(dict(zip(data, picked)) if isinstance(data, Mapping) else tuple(picked))
    return parts[0], parts[1]
