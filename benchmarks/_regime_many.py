"""Many retrainings at once: the reference grids that advice is judged on.

Networks of one shape are stacked, [networks, features, batch] in each layer, and trained by the
loop of the pilots with the batches, the noise and the schedule of one retraining seed. Each
network takes the steps it would take alone, to rounding. For small networks, most of whose cost is
that of calls and not of arithmetic, this is far cheaper than one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.regime.pruning import make_masks
from probcomp.regime.tasks import PilotTask
from probcomp.regime.training import TrainState, train


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
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(torch.cat([getattr(layer, name) for layer in layers]))
    return norm


@dataclass
class Pruned:
    """A network to be retrained, and its masks by parameter name (``N.weight``)."""

    network: nn.Sequential
    masks: dict[str, Tensor]


def retrained_errors(task: PilotTask, pruned: Sequence[Pruned], seed: int) -> np.ndarray:
    """Test errors (fractions) after retraining each with one seed, [networks]."""
    for one in pruned:
        with torch.no_grad():
            for name, mask in one.masks.items():
                one.network.get_parameter(name).mul_(mask)
    model = Stack([one.network for one in pruned])
    masks = {f"layers.{n}": torch.stack([p.masks[n] for p in pruned]) for n in pruned[0].masks}
    x, y = task.train
    # Apart from the batches of the dense run, and from those of pilots.
    train(
        model, (x, y[:, None].expand(-1, len(pruned))), task.retrain, seed=1_000_003 + seed,
        masks=masks, augment=task.augment,
    )  # fmt: skip
    x, y = task.test
    with torch.no_grad():
        return (model(x).argmax(1) != y[:, None]).double().mean(0).numpy()


def grid_errors(
    task: PilotTask, dense_seed: int, retrain_seeds: Sequence[int], densities: Sequence[float]
) -> np.ndarray:
    """Mean test error (fraction) over retraining seeds at each cell, [densities, levels].

    With ``epochs`` as the knob one dense run is stopped at every level; another has a run for each.
    """
    dense = task.fresh(dense_seed)
    state, stopped = TrainState(), {}
    for level in sorted(task.levels):
        if task.knob != "epochs":
            dense, state = task.fresh(dense_seed), TrainState()
        recipe = task.recipe.turned(task.knob, level)
        state = train(dense, task.train, recipe, seed=dense_seed, state=state, augment=task.augment)
        stopped[level] = {name: value.clone() for name, value in dense.state_dict().items()}
    errors = []
    for seed in retrain_seeds:
        pruned = []
        for density in densities:
            for level in task.levels:
                network = task.fresh(dense_seed)
                network.load_state_dict(stopped[level])
                masks = make_masks(network, task, density, task.prune, dense_seed)
                pruned.append(Pruned(network, masks))
        errors.append(retrained_errors(task, pruned, seed))
    return np.mean(errors, 0).reshape(len(densities), len(task.levels))
