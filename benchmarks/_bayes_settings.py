"""What is run: networks, data, and each method at a few operating points.

Every method starts from the same dense network and gets the same number of epochs, the refit
included where it has one; what differs is its own rule, or the budget.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probcomp.data import Batches, Data, load_digits
from probcomp.data.files import read_data
from probcomp.errors import InputError
from probcomp.inference.baselines import (
    GroupConfig,
    IterativeConfig,
    L0Config,
    PDPConfig,
    SBPConfig,
    SparseVDConfig,
    SpikeSlabConfig,
    VIBConfig,
)
from probcomp.inference.baselines.bayesian_compression import GHS_DEFAULT
from probcomp.inference.training import TurboConfig
from probcomp.models import LeNet5, LeNet300100, ResNetCIFAR
from probcomp.models.train import train
from probcomp.storage import read_tensors, write_tensors

FOLDERS = {"mnist": "mnist", "fashion": "fashion_mnist", "cifar10": "cifar10"}
BATCH_SIZE = 128
QUICK_SAMPLES = 1000


@dataclass(frozen=True)
class Epochs:
    """Passes over the data: of the dense network, and of every method in all."""

    dense: int
    method: int


EPOCHS = {
    "lenet-300-100": Epochs(6, 6),
    "lenet-5-caffe": Epochs(3, 10),
    "resnet-20": Epochs(20, 8),
}
"""Few, so that the whole comparison is an evening of one core; publications train for hundreds."""

Point = tuple[str, str | None, Callable[[int], Any]]
"""Label, budget, and the settings for a number of epochs."""


def schedule(base: Any, refit: bool = False) -> Callable[[int], Any]:
    """The settings of a baseline with the epochs of the benchmark.

    A refit that the publication has, or that a budget of ours calls for, takes a quarter of them.
    """

    def make(epochs: int) -> Any:
        last = max(epochs // 4, 1) if refit else 0
        return dataclasses.replace(
            base, epochs=max(epochs - last, 1), refit_epochs=last, batch_size=BATCH_SIZE
        )

    return make


def staged(epochs: int) -> IterativeConfig:
    """Pruning in stages: half of the epochs between cuts, half after the last."""
    stages = max(epochs // 2, 1)
    return IterativeConfig(
        stages=stages + 1, stage_epochs=1, epochs=max(epochs - stages, 1), batch_size=BATCH_SIZE
    )


def turbo(**changes: Any) -> Callable[[int], Any]:
    """Turbo-VBI: three quarters of the epochs in rounds, one quarter in the refit."""

    def make(epochs: int) -> TurboConfig:
        # 256 samples a batch on 60,000: 235 batches an epoch.
        steps, rounds = 235 * epochs, TurboConfig().rounds
        refit = steps // 4
        return TurboConfig(
            steps=max((steps - refit) // rounds, 1), refit_steps=max(refit, 1), **changes
        )

    return make


def nothing(_: int) -> None:
    return None


POINTS: dict[str, list[Point]] = {
    "turbo-vbi": [
        ("0.64 %", "params=0.0064", turbo()),
        ("1 %", "params=0.01", turbo()),
        ("2 %", "params=0.02", turbo()),
        ("5 %", "params=0.05", turbo()),
        ("own", None, turbo()),
    ],
    "turbo-vbi, coupling 0": [("2 %", "params=0.02", turbo(coupling=0.0))],
    "turbo-vbi, learnt coupling": [("2 %", "params=0.02", turbo(learn="coupling"))],
    "turbo-vbi, tempered": [("2 %", "params=0.02", turbo(temperature=3.0))],
    "turbo-vbi, tempered, coupling 0": [
        ("2 %", "params=0.02", turbo(temperature=3.0, coupling=0.0))
    ],
    "magnitude": [
        ("1 %", "params=0.01", nothing),
        ("2 %", "params=0.02", nothing),
        ("5 %", "params=0.05", nothing),
    ],
    "iterative-magnitude": [("1 %", "params=0.01", staged), ("2 %", "params=0.02", staged)],
    "obd-staged": [("2 %", "params=0.02", staged)],
    "obs-staged": [("2 %", "params=0.02", staged)],
    "pdp": [("2 %", "params=0.02", schedule(PDPConfig(), refit=True))],
    "sparse-vd": [("own", None, schedule(SparseVDConfig()))],
    "bc-gnj": [
        ("own", None, schedule(GroupConfig())),
        ("2 %", "params=0.02", schedule(GroupConfig(), refit=True)),
    ],
    "bc-ghs": [
        ("own", None, schedule(GHS_DEFAULT)),
        ("2 %", "params=0.02", schedule(GHS_DEFAULT, refit=True)),
    ],
    "l0": [
        ("own", None, schedule(L0Config())),
        ("2 %", "params=0.02", schedule(L0Config(), refit=True)),
    ],
    "sbp": [("own", None, schedule(SBPConfig()))],
    "vibnet": [("own", None, schedule(VIBConfig()))],
    "spike-slab-vb": [("own", None, schedule(SpikeSlabConfig()))],
}


def names_of(method: str) -> str:
    """Name of the method in the registry."""
    return method.partition(",")[0]


def points(methods: list[str] | None, labels: list[str] | None) -> Iterator[tuple[str, Point]]:
    """Operating points by method and label; all of them by default."""
    for method in methods or list(POINTS):
        if method not in POINTS:
            raise InputError(f"no settings for method {method!r}; there are {', '.join(POINTS)}")
        yield from ((method, p) for p in POINTS[method] if not labels or p[0] in labels)


@cache
def load(name: str, directory: Path | None, quick: bool) -> Data:
    """A data set by its short name; the embedded digits are called ``digits``."""
    if name == "digits":
        data = load_digits(images=True)
        # Networks for 28 x 28 read the 8 x 8 digits enlarged threefold with a border of 2.
        big = [
            nn.functional.pad(x.repeat_interleave(3, 2).repeat_interleave(3, 3), (2,) * 4)
            for x in (data.train[0], data.test[0])
        ]
        data = dataclasses.replace(data, train=(big[0], data.train[1]), test=(big[1], data.test[1]))
    elif directory is None:
        raise InputError(f"{name} needs --data-dir or the environment variable PROBCOMP_DATA")
    else:
        data = read_data(directory / FOLDERS[name])
    if quick:
        parts = [tuple(t[:QUICK_SAMPLES] for t in p) for p in (data.train, data.test)]
        data = dataclasses.replace(data, train=parts[0], test=parts[1])
    return data


def fresh(network: str) -> nn.Module:
    """An untrained network."""
    makers = {"lenet-300-100": LeNet300100, "lenet-5-caffe": LeNet5, "resnet-20": ResNetCIFAR}
    if network not in makers:
        raise InputError(f"no network {network!r}; there are {', '.join(makers)}")
    return makers[network]()


def dense(
    network: str, data: Data, name: str, seed: int, epochs: int, cache_dir: Path
) -> nn.Module:
    """The dense network of a seed, trained once and kept."""
    path = cache_dir / f"dense-{network}-{name}-{len(data.train[0])}-{epochs}-{seed}.safetensors"
    torch.manual_seed(seed)
    model = fresh(network)
    if path.is_file():
        model.load_state_dict(read_tensors(path))
        return model.eval()
    batches = Batches(data.train, BATCH_SIZE, seed)
    train(model, batches, epochs=epochs, lr=2e-3, weight_decay=1e-2, seed=seed)
    write_tensors(path, model.state_dict())
    return model.eval()
