"""The training loop of pilots: seeded by step, resumable at any, and masks stay masks.

Randomness is a function of (seed, step), so a run that is picked up from a checkpoint takes the
same steps as one that was never stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.landscape import logits_of
from probcomp.regime.randomness import seeded
from probcomp.regime.recipe import Recipe

SAM_EPSILON = 1e-12


@dataclass
class TrainState:
    """Where a run stands: steps taken, and the momentum of each parameter."""

    step: int = 0
    momentum: dict[str, Tensor] = field(default_factory=dict)


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    recipe: Recipe,
    *,
    seed: int,
    masks: Mapping[str, Tensor] | None = None,
    state: TrainState | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> TrainState:
    """Train ``model`` in place from ``state`` to ``recipe.epochs``, with cross-entropy.

    Weights outside ``masks`` are set to zero after each step: masking gradients alone is not
    enough, since momentum and weight decay go on moving a weight without gradient.

    Args:
        model: The network; left in evaluation mode.
        data: Inputs and integer targets, on the device of the network.
        seed: With the step, it fixes batches, dropout and augmentation.
        masks: By parameter name, 1 where a weight is kept.
        augment: Changes the inputs of a batch; may draw from torch's global random state, which
            is seeded at every step and restored afterwards, on the CPU and on CUDA.

    Raises:
        DivergenceError: the loss of a step is not finite, or the weights at the end.
    """
    inputs, targets = data
    state = state or TrainState()
    named = dict(model.named_parameters())
    masks = check_masks(named, masks)
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    for name, buffer in state.momentum.items():
        buffer = buffer.to(named[name], copy=True)  # a checkpoint is read to the CPU
        optimiser.state[named[name]]["momentum_buffer"] = buffer
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)
    last, horizon = recipe.steps(len(inputs)), recipe.steps(len(inputs), recipe.horizon)
    order = _Order(len(inputs), recipe.batch_size, seed)
    model.train()
    with seeded(model) as set_seed:
        for step in range(state.step, last):
            set_seed(mix(seed, 1, step))
            optimiser.param_groups[0]["lr"] = recipe.rate(step / max(horizon, 1))
            rows = order(step)
            x, y = inputs[rows], targets[rows]
            if augment is not None:
                x = augment(x)
            loss = _gradients(model, x, y, recipe.sam_rho, masks, named)
            if not np.isfinite(loss):
                raise DivergenceError(
                    f"the loss is {loss} at step {step} of {last}; lower lr {recipe.lr:g}"
                )
            optimiser.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    named[name].mul_(mask)
    model.eval()
    _check_finite(model, last, recipe.lr)
    momentum = {
        name: buffer.detach()
        for name, parameter in named.items()
        if (buffer := optimiser.state[parameter].get("momentum_buffer")) is not None
    }
    return TrainState(max(last, state.step), momentum)


def _check_finite(model: nn.Module, last: int, lr: float) -> None:
    """The last step's outcome, which no later loss has seen."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    averages = [v for m in norms for v in (m.running_mean, m.running_var) if v is not None]
    if not all(bool(v.isfinite().all()) for v in (*model.parameters(), *averages)):
        raise DivergenceError(
            f"the weights are not finite after the last of {last} steps; lower lr {lr:g}"
        )


def _gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    masks: Mapping[str, Tensor],
    named: Mapping[str, nn.Parameter],
) -> float:
    """Gradients at the weights, or with ``rho`` at the worst point of a ball around them."""
    for parameter in named.values():
        parameter.grad = None
    loss = F.cross_entropy(logits_of(model, x), y)
    loss.backward()
    if rho == 0:
        return loss.item()
    with torch.no_grad():
        for name, mask in masks.items():  # the ball lies among networks with this mask
            if (gradient := named[name].grad) is not None:
                gradient.mul_(mask)
        moved: list[Tensor] = [p for p in named.values() if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        scale = rho / (torch.stack([g.norm() for g in gradients]).norm() + SAM_EPSILON)
        steps = [scale * g for g in gradients]
        torch._foreach_add_(moved, steps)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:  # the statistics of the perturbed network are not the network's
        norm.momentum = 0.0
    for parameter in named.values():
        parameter.grad = None
    F.cross_entropy(logits_of(model, x), y).backward()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    with torch.no_grad():
        torch._foreach_sub_(moved, steps)
    return loss.item()


def check_masks(
    named: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Masks in the type of their parameters; refused where they name or shape nothing."""
    out = {}
    for name, mask in (masks or {}).items():
        if name not in named or named[name].shape != mask.shape:
            shape = tuple(named[name].shape) if name in named else "no such parameter"
            raise InputError(f"mask {name!r} has shape {tuple(mask.shape)}; expected {shape}.")
        out[name] = mask.to(named[name])
    return out


def set_dropout(model: nn.Module, rate: float) -> None:
    """Put a rate into every dropout layer; refused where the network has none."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    if not layers:
        raise InputError("dropout is a knob, but the network has no dropout layer.")
    for layer in layers:
        layer.p = rate


class _Order:
    """Rows of each step: whole batches of one seeded permutation a pass over the data."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.batch, self.seed = samples, min(batch, samples), seed
        self.passed = -1
        self.order = torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor:
        per_pass = self.samples // self.batch
        number, place = divmod(step, per_pass)
        if number != self.passed:
            generator = torch.Generator().manual_seed(mix(self.seed, 0, number))
            self.order, self.passed = torch.randperm(self.samples, generator=generator), number
        return self.order[place * self.batch : (place + 1) * self.batch]


def mix(*parts: int) -> int:
    """One seed from several numbers; near inputs give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
