"""Fashion-MNIST for ``probcomp advise --task benchmarks/fashion_task.py``: batch size turned.

1,200 images pooled to 14 x 14, a tenth of their labels drawn anew, a batch-norm network
196-64-64-64-10, retrained at rate 0.2 so that it may leave the valley of its start. Errors are on
5,000 further images of the training file; the test file is left alone. ``PROBCOMP_DATA`` names the
directory that holds ``fashion_mnist``.
"""

import itertools
import os
from pathlib import Path

import torch
from torch import nn

from probcomp.data.idx import read_idx_data
from probcomp.errors import InputError
from probcomp.regime.recipe import Recipe
from probcomp.regime.tasks import PilotTask

TRAIN, VALIDATION = 1200, 5000


def task() -> PilotTask:
    """What pilots are about."""
    data = os.environ.get("PROBCOMP_DATA")
    if not data:
        raise InputError("set PROBCOMP_DATA to the directory that contains fashion_mnist/.")
    images, labels = read_idx_data(Path(data) / "fashion_mnist").train
    inputs = nn.functional.avg_pool2d(images[: TRAIN + VALIDATION], 2).flatten(1)
    generator = torch.Generator().manual_seed(0)
    noisy = labels[:TRAIN].clone()
    wrong = torch.rand(TRAIN, generator=generator) < 0.1
    noisy[wrong] = torch.randint(0, 10, (TRAIN,), generator=generator)[wrong]
    return PilotTask(
        name="fashion",
        build=network,
        train=(inputs[:TRAIN], noisy),
        test=(inputs[TRAIN:], labels[TRAIN : TRAIN + VALIDATION]),
        # Steps are those of batches of 32, whatever the batch size.
        recipe=Recipe(epochs=20, horizon=20, lr=0.1, batch_size=32, weight_decay=1e-4),
        retrain=Recipe(epochs=20, horizon=20, lr=0.2, batch_size=32, weight_decay=1e-4),
        knob="batch_size",
        levels=(8, 16, 32, 64, 128, 256),
        densities=(0.03, 0.06, 0.12, 0.3),
        augment=jitter,
    )


def network() -> nn.Module:
    """Linear layers with batch norm."""
    widths, layers = (196, 64, 64, 64), []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def jitter(x: torch.Tensor) -> torch.Tensor:
    """Noise on the inputs of a batch."""
    return x + 0.15 * torch.randn_like(x)
