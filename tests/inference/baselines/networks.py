"""A small regression in which some inputs and hidden units are of no use."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.inference.baselines import Limit, Setting
from probcomp.inference.baselines.preparing import all_masks
from probcomp.inference.training import Slice, Units
from probcomp.models.train import train

SHORT: dict[str, Any] = {"epochs": 30, "batch_size": 50, "noise_rate": 3e-2, "noise_every": 1}
"""A schedule of a second."""


def samples(useless: int, count: int = 500) -> tuple[Tensor, Tensor]:
    """Four inputs that decide between three classes, and some that say nothing."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (count,), generator=generator)
    x = torch.randn(count, 4 + useless, generator=generator) * 0.5
    x[torch.arange(count), y] += 2
    x[:, 3] -= y - 1
    return x, y


def network(useless: int = 0, hidden: int = 12) -> nn.Sequential:
    """Trained on `samples`."""
    return copy.deepcopy(_network(useless, hidden))


@functools.cache
def _network(useless: int, hidden: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4 + useless, hidden), nn.ReLU(), nn.Linear(hidden, 3))
    train(model, Batches(samples(useless), 50), epochs=15, lr=1e-2)
    return model


def units(hidden: int = 12) -> list[Units]:
    """The hidden units as a group that may be removed."""
    one = torch.arange(hidden)[:, None]
    members = (Slice("0.weight", 0, one), Slice("0.bias", 0, one), Slice("2.weight", 1, one))
    return [Units("hidden", hidden, members)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def setting(useless: int = 0, **changes: Any) -> Setting:
    given = {
        "model": network(useless),
        "batches": Batches(samples(useless), 50),
        "loss": loss,
        "units": units(),
    }
    return Setting(**(given | changes))


def limit(model: nn.Module, allowed: float) -> Limit:
    """A budget on the count of parameters."""

    def spent(masks: Any, keep: Any) -> float:
        whole = all_masks(model, units(), masks, keep)
        return float(
            sum(
                int(whole[n].expand_as(p).sum()) if n in whole else p.numel()
                for n, p in model.named_parameters()
            )
        )

    return Limit(spent=spent, allowed=allowed)


def accuracy(model: nn.Module, useless: int = 0) -> float:
    x, y = samples(useless)
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())
