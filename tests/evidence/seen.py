"""Statistics of rows that are there to be looked at."""

import torch
from torch import Tensor

from probcomp.evidence import Statistics


def rows(count: int, size: int, seed: int = 0, common: float = 0.7) -> Tensor:
    """Correlated rows whose means are not zero, ``[count, size]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, size, generator=generator, dtype=torch.float64)
    shared = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    return own + common * shared + torch.linspace(-1, 2, size, dtype=torch.float64)


def statistics(x: Tensor, samples: int) -> Statistics:
    return Statistics(x.T @ x, x.sum(0), len(x), samples)


def weights(outputs: int, inputs: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
