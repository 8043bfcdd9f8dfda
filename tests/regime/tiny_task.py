"""A task that trains in a blink: two Gaussian clouds a class and a batch-norm network."""

import os
import time

import torch
from torch import nn

from probcomp.regime.recipe import Recipe
from probcomp.regime.tasks import PilotTask


def build() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.0), nn.Linear(12, 12),
        nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def jitter(x: torch.Tensor) -> torch.Tensor:
    delay = float(os.environ.get("TINY_TASK_DELAY", "0"))  # for tests that kill a sweep
    if delay:
        time.sleep(delay)
    return x + 0.1 * torch.randn_like(x)


def task() -> PilotTask:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(180) % 3
    centres = 1.5 * torch.randn(3, 2, 6, generator=generator)
    x = centres[y, torch.arange(180) // 3 % 2] + torch.randn(180, 6, generator=generator)
    return PilotTask(
        name="tiny",
        build=build,
        train=(x[:120], y[:120]),
        test=(x[120:], y[120:]),
        recipe=Recipe(epochs=4, horizon=4, lr=0.3, batch_size=16),
        retrain=Recipe(epochs=2, horizon=2, lr=0.3, batch_size=16),
        knob="epochs",
        levels=(1, 2, 4),
        densities=(0.1, 0.3, 0.8),
        augment=jitter,
    )


NOT_A_TASK = 3
