"""What a training loop takes: batches by epoch, and the loss of one of them."""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class EpochBatches(Protocol):
    """Batches of an epoch by its number; `probcomp.data.Batches` is one."""

    samples: int

    def __call__(self, epoch: int) -> Iterable[Any]:
        """Iterate over one seeded epoch."""
        ...


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy of a batch ``(inputs, targets)``, or the model's own loss."""
    if isinstance(batch, dict):
        return model(**batch).loss
    *inputs, targets = batch
    return F.cross_entropy(model(*inputs), targets)
