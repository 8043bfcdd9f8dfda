"""A small trained task, and settings that finish in a second."""

import functools

import torch
from torch import nn

from probcomp.data import Batches
from probcomp.inference.training import TurboConfig
from probcomp.models.train import train

QUICK = TurboConfig(rounds=6, epochs=2, refit_epochs=30)  # five batches an epoch


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 24)
        self.two = nn.Linear(24, 12)
        self.three = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(torch.relu(self.two(torch.relu(self.one(x)))))


def clouds(count: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three Gaussian clouds in six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.eye(3, 6)
    y = torch.randint(3, (count,), generator=generator)
    return centres[y] + 0.6 * torch.randn(count, 6, generator=generator), y


@functools.cache
def trained() -> Small:
    torch.manual_seed(0)
    model = Small()
    train(model, Batches(clouds(), 50), epochs=20, lr=1e-2)
    return model
