"""Cost of a Turbo-VBI epoch over a plain epoch of the same network, measured in pairs.

Both networks train on synthetic data of the shape of MNIST and CIFAR-10; only time is measured.
Epochs of the two kinds alternate, so that a slow moment of the machine hits both, and the ratio
of medians is reported. A plain epoch is Adam (fused) on the mean loss.

    python benchmarks/training.py [--pairs 7] [--out benchmarks/results/training.json]
"""

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from probcomp.data.batches import Batches
from probcomp.inference.training import Slice, TurboConfig, Units, init, step
from probcomp.inference.training.build import build_graph, check_target
from probcomp.inference.training.evidence import CollapsedGamma
from probcomp.inference.training.fitting import default_prior
from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.inference.training.schedule import plan
from probcomp.inference.training.weights import Run, weight_step
from probcomp.storage import write_json


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet_units() -> list[Units]:
    def units(name: str, size: int, made: str, read: str) -> Units:
        one = torch.arange(size)[:, None]
        members = (
            Slice(f"{made}.weight", 0, one),
            Slice(f"{made}.bias", 0, one),
            Slice(f"{read}.weight", 1, one),
        )
        return Units(name, size, members)

    return [units("hidden1", 300, "0", "2"), units("hidden2", 100, "2", "4")]


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added (He et al. 2016)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(self.norm1(self.first(x)).relu()))
        return (y + self.skip(x)).relu()


def resnet20() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outer, stride in ((16, 1), (32, 2), (64, 2)):
        for k in range(3):
            layers.append(Block(width, outer, stride if k == 0 else 1))
            width = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet_units() -> list[Units]:
    """The channels inside each block."""
    groups = []
    for k in range(9):
        size = (16, 32, 64)[k // 3]
        one = torch.arange(size)[:, None]
        name = str(3 + k)
        members = (
            Slice(f"{name}.first.weight", 0, one),
            Slice(f"{name}.norm1.weight", 0, one),
            Slice(f"{name}.norm1.bias", 0, one),
            Slice(f"{name}.second.weight", 1, one),
        )
        groups.append(Units(f"block{k}", size, members))
    return groups


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def plain_epoch(model: nn.Module, batches: Batches) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def run() -> None:
        model.train()
        for batch in batches(0):
            optimizer.zero_grad(set_to_none=True)
            value = loss(model, batch)
            value.item()  # both kinds check that the loss is finite
            value.backward()
            optimizer.step()

    return run


def measure(
    model: nn.Module, units: list[Units], batches: Batches, pairs: int, draws: tuple[str, str]
) -> dict[str, float]:
    config = TurboConfig(rounds=1000, epochs=1, linear_draw=draws[0], convolution_draw=draws[1])
    noise = Noise(torch.Generator().manual_seed(0))
    turbo = copy.deepcopy(model)
    to_bayesian(turbo, noise, linear=config.linear_draw, convolution=config.convolution_draw)
    graph = build_graph(turbo, units, default_prior(config), None, config)
    evidence = CollapsedGamma(well_determined=True)
    run = Run(turbo, batches, loss, evidence, config, noise, check_target(graph, 0.1))
    state = init(run, graph)
    plain = plain_epoch(copy.deepcopy(model), batches)
    plain()
    goal = plan(config, 0, graph.total, run.target, 0.1)
    weight_step(run, state.graph, state.precision, (0, 0), goal)
    seconds: dict[str, list[float]] = {"plain": [], "weights": [], "messages": []}
    for _ in range(pairs):
        began = time.perf_counter()
        plain()
        seconds["plain"].append(time.perf_counter() - began)
        state, info = step(run, state)
        seconds["weights"].append(info.seconds_weights)
        seconds["messages"].append(info.seconds_messages)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = sorted(w / p for w, p in zip(seconds["weights"], seconds["plain"], strict=True))
    return {
        "plain_seconds": medians["plain"],
        "turbo_seconds": medians["weights"],
        "messages_seconds_per_round": medians["messages"],
        "batches": len(batches),
        "ratio": medians["weights"] / medians["plain"],
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="benchmarks/results/training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    # Samples of one timed epoch: enough batches for a stable time, not a whole data set.
    mnist = Batches((torch.randn(12800, 784), torch.randint(0, 10, (12800,))), 128)
    cifar = Batches((torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,))), 128)
    steps = TurboConfig().steps  # the message share is for rounds of the default length
    cases = [
        ("784-300-100-10", lenet(), lenet_units(), mnist, ("outputs", "weights")),
        ("ResNet-20", resnet20(), resnet_units(), cifar, ("outputs", "weights")),
        ("ResNet-20, output noise", resnet20(), resnet_units(), cifar, ("outputs",) * 2),
    ]
    rows = {}
    print(f"{'network':26}{'plain s':>9}{'turbo s':>9}{'ratio':>7}{'messages s':>12}{'share':>8}")
    for name, model, units, batches, draws in cases:
        row = measure(model, units, batches, arguments.pairs, draws)
        weights = row["turbo_seconds"] / row["batches"] * steps
        row["messages_share"] = row["messages_seconds_per_round"] / (
            weights + row["messages_seconds_per_round"]
        )
        row["draws"] = draws
        rows[name] = row
        print(
            f"{name:26}{row['plain_seconds']:9.3f}{row['turbo_seconds']:9.3f}{row['ratio']:7.2f}"
            f"{row['messages_seconds_per_round']:12.3f}{row['messages_share']:8.1%}"
        )
    write_json(
        arguments.out,
        {
            "command": " ".join(["python", *sys.argv]),
            "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": arguments.threads,
            "pairs": arguments.pairs,
            "steps_per_round": steps,
            "networks": rows,
        },
    )


if __name__ == "__main__":
    main()
