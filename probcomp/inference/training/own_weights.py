"""Which layers of a model have a weight of their own, and what training needs of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError

PRECISIONS = (torch.float32, torch.float64)
"""Types that messages, evidence and small steps of Adam are exact enough in."""


def own_layers(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> dict[str, Any]:
    """The wanted layers whose weight is trainable and no other module's, by name.

    Args:
        model: Any module.
        wanted: Whether a layer is of a kind that is asked for; it has a ``weight``.

    Raises:
        InputError: A weight of theirs is not finite or not in one of `PRECISIONS`, weights are of
            different types, or `check_plain` refuses one.
    """
    check_plain(model)
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not wanted(module):
            continue
        weight = module.get_parameter("weight")
        if users[id(weight)] > 1 or not weight.requires_grad or not weight.numel():
            continue
        if weight.dtype not in PRECISIONS:
            raise InputError(
                f"the weight of layer {name!r} is {weight.dtype}, too coarse for training: give "
                "model.float() and inputs of float32"
            )
        if not bool(torch.isfinite(weight).all()):
            raise InputError(f"the weight of layer {name!r} holds NaN or infinite values")
        found[name] = module
    types = {module.weight.dtype for module in found.values()}
    if len(types) > 1:
        raise InputError(f"weights are of {len(types)} types, {types}; give them one, by .float()")
    return found


def check_plain(model: nn.Module) -> None:
    """Refuse tensors that hooks compute from other parameters before each forward pass.

    Training would change a copy that the next pass writes over. Parametrisations of
    ``torch.nn.utils.parametrize`` are classes of their own, and left alone.

    Raises:
        InputError: Names the tensor and the functions that make it a parameter again.
    """
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            sources = {f"{key}_orig", f"{key}_g"} & set(module._parameters)
            if isinstance(value, Tensor) and sources:
                raise InputError(
                    f"{f'{name}.{key}'.lstrip('.')} is computed anew in each forward pass "
                    "(weight_norm, spectral_norm or prune of torch.nn.utils); make it a parameter "
                    "first: remove_weight_norm, remove_spectral_norm, prune.remove"
                )
