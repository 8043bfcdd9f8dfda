"""A small trained classifier, for tests of codebooks."""

import torch
from torch import nn
from torch.nn import functional as F

from probcomp.data import Batches


def problem(samples: int = 256) -> tuple[nn.Module, Batches]:
    """A small trained classifier of a separable problem."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    batches = Batches((x, y), 32)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(20):
        for inputs, targets in batches(epoch):
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
    return model, batches


def loss(model: nn.Module, batches: Batches) -> float:
    x, y = batches.tensors
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))
