"""Seeded mini-batches: the same seed and epoch give the same batches, on every machine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError

Batch = tuple[Any, ...] | dict[str, Tensor]

IGNORED = -100
"""Target of a position that has none, as in torch's cross-entropy."""


class Batches:
    """Mini-batches of in-memory tensors; ``batches(epoch)`` iterates one seeded permutation.

    Args:
        data: ``(inputs, targets)``, tensors of equal first dimension, or a dict of such tensors
            (keyword inputs of a Hugging Face model, with ``labels``).
        batch_size: Samples a batch; the last batch of an epoch may be smaller. Where it would be a
            single sample of a permutation, the batch before it takes that in: batch norms cannot
            train on one.
        seed: Seed of the permutations. Epoch ``e`` is drawn from ``(seed, e)`` alone, so a run that
            resumes at epoch ``e`` sees what it would have seen.
        shuffle: Whether to permute; off for evaluation.
        terms: How many terms of the log-likelihood a mean loss is of, over all of the data; by
            default as many as samples.

    Raises:
        InputError: No samples, unequal lengths, NaN or infinities in the data.
    """

    def __init__(
        self,
        data: Sequence[Tensor] | Mapping[str, Tensor],
        batch_size: int = 128,
        seed: int = 0,
        *,
        shuffle: bool = True,
        terms: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.keys = list(data) if isinstance(data, Mapping) else None
        self.tensors = list(data.values()) if isinstance(data, Mapping) else list(data)
        names = self.keys or [f"data[{i}]" for i in range(len(self.tensors))]
        if not self.tensors or not all(isinstance(t, Tensor) for t in self.tensors):
            raise InputError(
                "data must be (inputs, targets) or a dict of tensors, got "
                f"{[type(t).__name__ for t in self.tensors] or 'nothing'}"
            )
        lengths = {
            name: len(t) if t.dim() else 0 for name, t in zip(names, self.tensors, strict=True)
        }
        if len(set(lengths.values())) != 1:
            raise InputError(f"data tensors must hold equally many samples, got {lengths}")
        self.samples = next(iter(lengths.values()))
        if not self.samples:
            raise InputError("data holds no samples")
        for name, tensor in zip(names, self.tensors, strict=True):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise InputError(f"{name} holds NaN or infinite values; clean the data first")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.terms = self.samples if terms is None else terms

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self.samples // self.batch_size) - self._left_over

    @property
    def _left_over(self) -> bool:
        """Whether a permutation leaves a single sample behind its whole batches."""
        whole, rest = divmod(self.samples, self.batch_size)
        return self.shuffle and rest == 1 < self.batch_size and whole > 0

    def _pick(self, index: Tensor | slice) -> Batch:
        picked = [tensor[index] for tensor in self.tensors]
        return dict(zip(self.keys, picked, strict=True)) if self.keys else tuple(picked)

    def __call__(self, epoch: int = 0) -> Iterator[Batch]:
        """Iterate over one epoch."""
        if not self.shuffle:
            for start in range(0, self.samples, self.batch_size):
                yield self._pick(slice(start, start + self.batch_size))
            return
        # Two numbers into one seed; the multiplier keeps neighbouring runs apart.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.samples, generator=generator)
        parts = list(order.split(self.batch_size))
        if self._left_over:
            parts[-2:] = [torch.cat(parts[-2:])]
        for index in parts:
            yield self._pick(index)

    def example(self, samples: int = 2) -> Batch:
        """The first ``samples`` samples, as one batch."""
        return self._pick(slice(0, samples))


def trimmed(batch: Batch) -> Batch:
    """A batch of texts without the columns that are padding in all of its samples.

    Columns are those of ``attention_mask``; padding may be on either side. Other batches come back
    as they are, and so do those whose labels ask for a column of padding: a decoder's text may be
    longer than the encoder's, and be padded to the same width. What is named ``decoder_`` keeps its
    columns, and labels beside it.
    """
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if not isinstance(batch, dict) or mask is None or mask.dim() != 2:
        return batch
    used = mask.bool().any(0)
    if bool(used.all()) or not bool(used.any()):
        return batch
    own = {name for name in batch if name.startswith("decoder_")}
    own |= {"labels"} if own else set()
    cut = {
        name: value[:, used]
        for name, value in batch.items()
        if value.dim() == 2
        and value.shape[1] == len(used)
        and not value.is_floating_point()
        and name not in own
    }
    if "labels" in cut and bool((batch["labels"][:, ~used] != IGNORED).any()):
        return batch
    return batch | cut
