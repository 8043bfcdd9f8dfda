"""A data set in memory: what every reader returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError

Samples = tuple[Tensor, ...] | Mapping[str, Tensor]
"""``(inputs, targets)``, or named tensors with ``labels``; first dimension: samples. Methods that
work after training also take samples without targets: ``(inputs,)``, or names without labels."""


@dataclass(frozen=True)
class Data:
    """Training and test samples, checked on construction.

    Attributes:
        train: ``(x, y)``, or named tensors with ``labels``; targets may be absent.
        test: the same for the held-out samples, or ``None`` if there are none.
        name: name for the report.
        classes: number of classes; 0 if the targets are real numbers.

    Raises:
        InputError: no samples, tensors of unequal length, NaN or infinities, training and test
            samples of unequal shape or type, labels outside 0 ... classes - 1.
    """

    train: Samples
    test: Samples | None
    name: str
    classes: int

    def __post_init__(self) -> None:
        _check_part(self.train, f"{self.name}, training part", self.classes)
        if self.test is None:
            return
        _check_part(self.test, f"{self.name}, test part", self.classes)
        train, test = named(self.train), named(self.test)
        if list(train) != list(test):
            raise InputError(f"{self.name}: training has {list(train)}, test has {list(test)}")
        for key in train:
            first, second = train[key], test[key]
            if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
                raise InputError(
                    f"{self.name}: samples of {key!r} differ: training {_form(first)}, test "
                    f"{_form(second)}; both parts need one shape and type"
                )


def named(samples: Samples) -> dict[str, Tensor]:
    """Tensors by name; the entries of ``(x, y)`` are called ``x`` and ``y``."""
    if isinstance(samples, Mapping):
        return dict(samples)
    return dict(zip(("x", "y"), samples))


def count_classes(labels: Tensor) -> int:
    """Classes 0 ... max(labels); 0 for real-valued targets."""
    return 0 if labels.is_floating_point() or labels.numel() == 0 else int(labels.max()) + 1


def standardise(train: Tensor, other: Tensor, *, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Subtract the training mean and divide by the training deviation, both over ``dims``.

    Features that never vary in training have no scale; they are only centred.
    """
    mean = train.mean(dims, keepdim=True)
    scale = train.std(dims, keepdim=True, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    return (train - mean) / scale, (other - mean) / scale


def _check_part(samples: Samples, where: str, classes: int) -> None:
    tensors = named(samples)
    lengths = {key: len(value) if value.dim() else 0 for key, value in tensors.items()}
    if not lengths or max(lengths.values()) == 0:
        raise InputError(f"{where}: no samples")
    if len(set(lengths.values())) > 1:
        raise InputError(f"{where}: tensors must hold equally many samples, got {lengths}")
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{where}: {key!r} holds NaN or infinite values; clean the data first")
    labels = tensors.get("labels", tensors.get("y"))
    if classes and labels is not None and labels.dim() == 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"{where}: labels run from {low} to {high}, expected 0 to {classes - 1}"
            )


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape[1:])} {str(tensor.dtype).removeprefix('torch.')}"
