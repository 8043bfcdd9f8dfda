"""Many retrainings at once: reference grids that advice is judged on, and pilots of a whole grid.

Networks of one shape are stacked, [networks, features, batch] in each layer, and trained by the
loop of the pilots with the batches, the noise and the schedule of one retraining seed. Each
network takes the steps it would take alone, to rounding. For small networks, most of whose cost is
that of calls and not of arithmetic, this is far cheaper than one after the other.
"""

import copy
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.regime.landscape import agreement, cka, linear_connectivity, outputs_of
from probcomp.regime.pilots import LMC_POINTS, error_of, in_batches, pilot_configs
from probcomp.regime.pruning import density_of, make_masks
from probcomp.regime.store import Record
from probcomp.regime.tasks import PilotTask, load_task
from probcomp.regime.training import TrainState, train

NORM = ("weight", "bias", "running_mean", "running_var")
"""What a batch norm holds of each feature."""


class Stack(nn.Module):
    """Copies of networks of linear layers, batch norms and ReLUs, run side by side.

    ``forward`` maps [batch, features] to logits [batch, classes, networks]. Cross-entropy averages
    over networks too; the gradient is multiplied by their number, so that each gets its own.
    """

    def __init__(self, networks: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.count = len(networks)
        layers: list[nn.Module] = []
        for same in zip(*networks, strict=True):
            kind = type(same[0])
            if kind is nn.Linear:
                layer = StackedLinear(same)
            elif kind is nn.BatchNorm1d:
                layer = stacked_norm(same)
            elif kind is nn.ReLU:
                layer = nn.ReLU()
            else:
                raise TypeError(f"no stack of {kind.__name__}")
            layers.append(layer)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        h = x.T.expand(self.count, -1, -1)
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm1d):
                h = layer(h.reshape(1, -1, h.shape[-1])).view_as(h)
            else:
                h = layer(h)
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient * self.count)
        return h.permute(2, 1, 0)

    def network(self, number: int, like: nn.Sequential) -> nn.Sequential:
        """One of the networks by itself; ``like`` has its layers."""
        out = copy.deepcopy(like).eval()
        with torch.no_grad():
            for one, layer in zip(out, self.layers):
                if isinstance(layer, StackedLinear):
                    one.weight.copy_(layer.weight[number])
                    one.bias.copy_(layer.bias[number, :, 0])
                elif isinstance(layer, nn.BatchNorm1d):
                    for name in NORM:
                        getattr(one, name).copy_(getattr(layer, name).view(self.count, -1)[number])
        return out


class StackedLinear(nn.Module):
    """Linear layers side by side: [networks, in, batch] to [networks, out, batch]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])[..., None])

    def forward(self, h: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, self.weight, h)


def stacked_norm(layers: Sequence[nn.BatchNorm1d]) -> nn.BatchNorm1d:
    """One batch norm over the features of all networks."""
    first = layers[0]
    norm = nn.BatchNorm1d(
        sum(layer.num_features for layer in layers), first.eps, first.momentum,
        dtype=first.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for name in NORM:
            getattr(norm, name).copy_(torch.cat([getattr(layer, name) for layer in layers]))
    return norm


@dataclass
class Pruned:
    """A network to be retrained, and its masks by parameter name (``N.weight``)."""

    network: nn.Sequential
    masks: dict[str, Tensor]


def retrained(task: PilotTask, pruned: Sequence[Pruned], seed: int) -> Stack:
    """The networks, each masked and retrained with the random numbers of one ``seed``."""
    for one in pruned:
        with torch.no_grad():
            for name, mask in one.masks.items():
                one.network.get_parameter(name).mul_(mask)
    model = Stack([one.network for one in pruned])
    masks = {f"layers.{n}": torch.stack([p.masks[n] for p in pruned]) for n in pruned[0].masks}
    x, y = task.train
    train(
        model, (x, y[:, None].expand(-1, len(pruned))), task.retrain, seed=seed, masks=masks,
        augment=task.augment,
    )  # fmt: skip
    return model


@torch.no_grad()
def stack_errors(model: Stack, samples: tuple[Tensor, Tensor]) -> np.ndarray:
    """Share of samples that each network classifies wrongly, [networks]."""
    x, y = samples
    return (model(x).argmax(1) != y[:, None]).double().mean(0).numpy()


def stopped_networks(task: PilotTask, dense_seed: int) -> dict[float, nn.Sequential]:
    """The dense network of each level.

    With ``epochs`` as the knob one dense run is stopped at every level; another has a run for each.
    """
    dense = task.fresh(dense_seed)
    state, stopped = TrainState(), {}
    for level in sorted(task.levels):
        if task.knob != "epochs":
            dense, state = task.fresh(dense_seed), TrainState()
        recipe = task.recipe.turned(task.knob, level)
        state = train(dense, task.train, recipe, seed=dense_seed, state=state, augment=task.augment)
        stopped[level] = copy.deepcopy(dense)
    return stopped


def pruned_networks(
    task: PilotTask,
    stopped: Mapping[float, nn.Sequential],
    densities: Sequence[float],
    dense_seed: int,
) -> list[Pruned]:
    """Copies of the dense networks with masks: all levels of the first density, and so on."""
    pruned = []
    for density in densities:
        for level in task.levels:
            network = copy.deepcopy(stopped[level])
            masks = make_masks(network, task, density, task.prune, dense_seed)
            pruned.append(Pruned(network, masks))
    return pruned


def grid_errors(
    task: PilotTask, dense_seed: int, retrain_seeds: Sequence[int], densities: Sequence[float]
) -> np.ndarray:
    """Mean test error (fraction) over retraining seeds at each cell, [densities, levels]."""
    stopped = stopped_networks(task, dense_seed)
    errors = []
    for seed in retrain_seeds:
        pruned = pruned_networks(task, stopped, densities, dense_seed)
        # Apart from the batches of the dense run, and from those of pilots.
        errors.append(stack_errors(retrained(task, pruned, 1_000_003 + seed), task.test))
    return np.mean(errors, 0).reshape(len(densities), len(task.levels))


def grid_pilots(source: str, dense_seed: int) -> list[Record]:
    """Records of the pilots of a whole grid, as `run_pilot` gives them but for rounding and time.

    ``wall_s`` of a retraining is its even share of what all of them took.
    """
    task = load_task(source)
    stopped = stopped_networks(task, dense_seed)
    cells = [(level, density) for density in task.densities for level in task.levels]
    configs = [pilot_configs(source, *cell, dense_seeds=[dense_seed])[0] for cell in cells]
    before = pruned_networks(task, stopped, task.densities, dense_seed)
    stacks, seconds = [], []
    for seed in task.retrain_seeds:
        began = time.perf_counter()
        pruned = pruned_networks(task, stopped, task.densities, dense_seed)
        stacks.append(retrained(task, pruned, configs[0].randomness(seed)))
        seconds.append((time.perf_counter() - began) / len(cells))
    wrong = [[stack_errors(s, part) for part in (task.train, task.test)] for s in stacks]
    batches, records = in_batches(task.train), []
    for k, (config, one) in enumerate(zip(configs, before)):
        models = [stack.network(k, one.network) for stack in stacks]
        dense = {"test_error": error_of(stopped[cells[k][0]], task.test)}
        with torch.no_grad():
            for name, mask in one.masks.items():
                one.network.get_parameter(name).mul_(mask)
        about = {
            "density_realised": density_of(one.network, one.masks, task),
            "pruned_test_error": error_of(one.network, task.test),
        }
        runs = [
            {**about, "train_error": float(train_[k]), "test_error": float(test[k]), "wall_s": s}
            for (train_, test), s in zip(wrong, seconds)
        ]
        pairs = []
        for first, second in itertools.combinations(models, 2):
            lmc, _ = linear_connectivity(first, second, batches, points=LMC_POINTS)
            x, y = (outputs_of(model, batches) for model in (first, second))
            similar = {"cka_softmax": cka(x.softmax(1), y.softmax(1)), "agreement": agreement(x, y)}
            pairs.append({"lmc": lmc, **similar, "wall_s": 0.0})
        record = {"key": config.key, "config": config.to_json(), "task": task.name}
        records.append(record | {"status": "done", "dense": dense, "runs": runs, "pairs": pairs})
    return records
