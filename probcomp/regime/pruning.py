"""Masks of a pilot: which weights of a dense network are kept."""

import importlib
from collections.abc import Callable, Sequence

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
    mask = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    mask[size.flatten().argsort(descending=True, stable=True)[:count]] = True
    return mask.view_as(size)


Rule = Callable[[nn.Module, PilotTask, float, int], dict[str, Tensor]]
"""``rule(model, task, density, seed)`` gives a boolean mask for each weight that it prunes."""


def make_masks(
    model: nn.Module, task: PilotTask, density: float, method: str, seed: int
) -> dict[str, Tensor]:
    """Masks by ``uniform`` or ``global`` magnitude, or by the `Rule` at ``module:name``.

    A rule goes by its address, not as a function: pilots run in processes of their own and are
    kept under a hash of what was asked for. **An address imports its module, with the rights of
    the user:** run no plan, record or task of others without reading the addresses in it.
    """
    if method in RULES:
        return magnitude_masks(prunable_weights(model, task.prunable), density, method)
    if ":" not in method:
        raise InputError(
            f"unknown pruning method {method!r}; known: {', '.join(RULES)}, or module:function. "
            "Methods of the package are probcomp.recipes.pilot_masks:NAME."
        )
    masks = load_rule(method)(model, task, density, seed)
    return {name: mask.bool() for name, mask in masks.items()}


def load_rule(address: str) -> Rule:
    """The rule at ``module:name``; the module is imported.

    Raises:
        InputError: there is no such module, it fails when it is imported, or it has no function
            of that name.
    """
    module, _, name = address.partition(":")
    try:
        rule: Rule = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"no pruning rule {address!r}: {error}") from error
    except Exception as error:  # whatever the user's module raises, a SyntaxError too
        kind = type(error).__name__
        raise InputError(
            f"no pruning rule {address!r}: {module} raised {kind} when imported: {error}"
        ) from error
    if not callable(rule):
        raise InputError(
            f"no pruning rule {address!r}: it is of type {type(rule).__name__}, not a function "
            "rule(model, task, density, seed)."
        )
    return rule


def density_of(model: nn.Module, masks: dict[str, Tensor], task: PilotTask) -> float:
    """Share of the prunable weights that masks keep."""
    weights = prunable_weights(model, task.prunable)
    kept = sum(
        int(masks[name].sum()) if name in masks else w.numel() for name, w in weights.items()
    )
    return kept / sum(w.numel() for w in weights.values())
