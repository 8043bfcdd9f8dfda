"""The rows one forward is about, with what the forward said: the argument of every rule."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.decoding.features import Features


@dataclass
class View:
    """Active rows of a batch, trimmed to the longest canvas among them.

    ``index`` [rows] leads back into `Rows`; ``ids``, ``masked``, ``valid`` are [rows, width];
    ``tail`` [rows] is where filler begins for sure: positions from there on compete for nothing.
    ``p_end`` and ``end_weights`` [rows, width + 1] are None when no rule asks for them;
    ``read_end`` is p_end before the prior is mixed in: what the model itself says.
    """

    index: Tensor
    ids: Tensor
    masked: Tensor
    valid: Tensor
    length: Tensor
    features: Features
    eos_committed: Tensor
    tail: Tensor
    p_end: Tensor | None = None
    end_weights: Tensor | None = None
    read_end: Tensor | None = None

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    @property
    def place(self) -> Tensor:
        return torch.arange(self.width, device=self.ids.device)

    @property
    def pending(self) -> Tensor:
        """Masked positions before the tail: what is still to be decided."""
        return self.masked & (self.place < self.tail[:, None])

    def inside(self, begin: Tensor, end: Tensor) -> Tensor:
        """Positions of [begin, end), [rows, width]."""
        return (self.place >= begin[:, None]) & (self.place < end[:, None])

    def first_pending(self) -> Tensor:
        """First undecided position, or the width. [rows]."""
        return torch.where(self.pending, self.place, self.width).min(1).values

    def doubt(self) -> Tensor:
        """Mean entropy (nats) of the undecided positions, float64 [rows]: how sure a row is."""
        count = self.pending.sum(1).clamp(min=1)
        # Padding by batch-mates must not change the rounding: curves are switched by this number.
        return (self.features.entropy.double() * self.pending).sum(1) / count

    def expected_content(self) -> Tensor:
        """Undecided positions weighted by P(E > i), [rows]."""
        if self.p_end is None:
            return self.pending.sum(1).double()
        alive = 1.0 - self.p_end[:, :-1].cumsum(1)
        return (self.pending * alive).sum(1).double().clamp(min=1.0)


def first_of(where: Tensor, otherwise: Tensor) -> Tensor:
    """First true position of each row, else ``otherwise``. [rows]."""
    place = torch.arange(where.shape[1], device=where.device)
    first = torch.where(where, place, where.shape[1]).min(1).values
    return torch.minimum(first, otherwise)
