"""Masks of a pilot: which weights of a dense network are kept."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probcomp.errors import InputError, unknown
from probcomp.regime.tasks import PilotTask

RULES = ("uniform", "global")


def prunable_weights(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Weights that density counts: of linear and convolution layers but the last, or ``names``.

    The last layer, biases and norms are never pruned (Zhou et al. 2023 prune convolutions only).
    """
    named = {name: p.detach() for name, p in model.named_parameters()}
    if names is not None:
        missing = [name for name in names if name not in named]
        if missing:
            raise unknown("prunable parameter", missing[0], named)
        return {name: named[name] for name in names}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    found = [f"{name}.weight" for name, m in model.named_modules() if isinstance(m, kinds)]
    if len(found) < 2:
        raise InputError(
            "the network has no linear or convolution layer besides the last; name the parameters "
            "to prune in the task's 'prunable'."
        )
    return {name.removeprefix("."): named[name.removeprefix(".")] for name in found[:-1]}


def magnitude_masks(weights: dict[str, Tensor], density: float, rule: str) -> dict[str, Tensor]:
    """Keep the largest weights in size, a share ``density`` of each layer or of all.

    Ties are broken by position, so that the count is exact: round(density * size), at least one.
    """
    if not 0 < density <= 1:
        raise InputError(f"density is {density}; it must lie in (0, 1].")
    if rule not in RULES:
        raise unknown("pruning rule", rule, RULES)
    if rule == "uniform":
        return {name: _largest(w.abs(), density) for name, w in weights.items()}
    flat = torch.cat([w.abs().flatten() for w in weights.values()])
    kept = _largest(flat, density).split([w.numel() for w in weights.values()])
    return {name: mask.view_as(w) for (name, w), mask in zip(weights.items(), kept)}


def _largest(size: Tensor, density: float) -> Tensor:
    count = max(1, round(density * size.numel()))
    mask = torch.zeros(size.numel(), dtype=torch.bool)
    mask[size.flatten().argsort(descending=True, stable=True)[:count]] = True
    return mask.view_as(size)


def make_masks(
    model: nn.Module, task: PilotTask, density: float, method: str, seed: int
) -> dict[str, Tensor]:
    """Masks by ``uniform`` or ``global`` magnitude, or by a compression method of the package.

    A method of the package is given the budget that leaves ``density`` of the prunable weights if
    everything else stays, and decides over all layers; the survivors keep their trained values.
    """
    weights = prunable_weights(model, task.prunable)
    if method in RULES:
        return magnitude_masks(weights, density, method)
    from probcomp.recipes import compress
    from probcomp.recipes.methods import METHODS

    if method not in METHODS:
        raise unknown("pruning method", method, [*RULES, *METHODS])
    from probcomp.allocation import Budget

    total = sum(p.numel() for p in model.parameters())
    inside = sum(w.numel() for w in weights.values())
    share = (total - inside + density * inside) / total
    result = compress(
        model, task.train, budget=Budget(params=share), method=method, seed=seed,
        test=task.test, kinds=(), progress=False,
    )  # fmt: skip
    return {name: mask.bool() for name, mask in result.masks.items()}


def density_of(model: nn.Module, masks: dict[str, Tensor], task: PilotTask) -> float:
    """Share of the prunable weights that masks keep."""
    weights = prunable_weights(model, task.prunable)
    kept = sum(
        int(masks[name].sum()) if name in masks else w.numel() for name, w in weights.items()
    )
    return kept / sum(w.numel() for w in weights.values())
