"""Weight masks: zeros inside a parameter that training leaves at zero.

A mask is a boolean tensor of its parameter's shape, false where the weight is gone. The weight is
set to zero and its gradient is multiplied by the mask, so any optimiser that moves a weight along
a function of its own gradient history and its own value (SGD with momentum, Adam, AdamW, RMSprop,
with or without weight decay) keeps it at zero.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError, unknown

MASKS_ATTRIBUTE = "_probcomp_masks"


class _GradientMask:
    """The hook on a parameter: its gradient is zero where the mask is false."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.mask.device != gradient.device:
            self.mask = self.mask.to(gradient.device)
        # where, not a product: a masked weight's gradient may be infinite, and inf * 0 is NaN
        return torch.where(self.mask, gradient, torch.zeros_like(gradient))


class MaskSet:
    """The masks of one module, by parameter name, with the hooks that enforce them.

    Parameters are held so that a deep copy can find their copies: hooks do not survive a deep
    copy by themselves.
    """

    def __init__(self) -> None:
        self.entries: dict[str, tuple[nn.Parameter, Tensor]] = {}
        self._handles: dict[str, Any] = {}

    def put(self, name: str, parameter: nn.Parameter, mask: Tensor) -> None:
        if name in self._handles:
            self._handles.pop(name).remove()
        self.entries[name] = (parameter, mask)
        # A frozen parameter takes no hook, and must be masked if it is thawed later.
        frozen = not parameter.requires_grad
        parameter.requires_grad_(True)
        self._handles[name] = parameter.register_hook(_GradientMask(mask))
        if frozen:
            parameter.requires_grad_(False)

    def forget(self, name: str) -> None:
        self.entries.pop(name, None)
        if name in self._handles:
            self._handles.pop(name).remove()

    @classmethod
    def of(cls, entries: Mapping[str, tuple[nn.Parameter, Tensor]]) -> "MaskSet":
        """A new set that enforces ``entries``."""
        masks = cls()
        for name, (parameter, mask) in entries.items():
            masks.put(name, parameter, mask)
        return masks

    def drop(self) -> None:
        for handle in self._handles.values():
            handle.remove()
        self.entries.clear()
        self._handles.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "MaskSet":
        twin = MaskSet()
        memo[id(self)] = twin
        for name, (parameter, mask) in self.entries.items():
            twin.put(name, copy.deepcopy(parameter, memo), mask.clone())
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return (MaskSet.of, (self.entries,))


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Zero the weights where a mask is false, and keep them at zero during training.

    ```
    w <- w * m        and        dL/dw <- dL/dw * m
    ```

    The masks are remembered on the model (not in its ``state_dict``); they survive ``deepcopy``,
    `shrink` and `save`/`load`. A second call replaces the masks of the parameters it names. Make
    the optimiser after the masks: momentum gathered before would still move a masked weight.

    Args:
        model: changed in place and returned.
        masks: parameter name to boolean tensor of the parameter's shape, true where the weight
            stays. A tied parameter may go by any of its names.

    Raises:
        InputError: for an unknown name, a wrong shape, or a mask that is not boolean. Nothing is
            changed then.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    canonical = {id(p): name for name, p in model.named_parameters()}
    ready: dict[str, tuple[nn.Parameter, Tensor]] = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise unknown("parameter", name, parameters)
        parameter = parameters[name]
        if mask.dtype != torch.bool:
            raise InputError(f"mask of {name} must be boolean, got {mask.dtype}")
        if mask.shape != parameter.shape:
            raise InputError(
                f"mask of {name} has shape {tuple(mask.shape)}, "
                f"the parameter has {tuple(parameter.shape)}"
            )
        ready[canonical[id(parameter)]] = (parameter, mask.detach().clone().to(parameter.device))
    held: MaskSet = model.__dict__.get(MASKS_ATTRIBUTE) or MaskSet()
    setattr(model, MASKS_ATTRIBUTE, held)
    with torch.no_grad():
        for name, (parameter, mask) in ready.items():
            parameter.masked_fill_(~mask, 0)
            held.put(name, parameter, mask)
    return model


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks on a model and its parts: parameter name to boolean tensor; may be empty."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        held = module.__dict__.get(MASKS_ATTRIBUTE)
        if isinstance(held, MaskSet):
            for name, (_, mask) in held.entries.items():
                full = f"{prefix}.{name}" if prefix else name
                found[full] = found[full] & mask if full in found else mask
    return found


def forget_missing(model: nn.Module) -> nn.Module:
    """Forget the masks of parameters that the model no longer has."""
    for module in model.modules():
        held = module.__dict__.get(MASKS_ATTRIBUTE)
        if isinstance(held, MaskSet):
            present = {id(p) for p in module.parameters()}
            for name in [n for n, (p, _) in held.entries.items() if id(p) not in present]:
                held.forget(name)
    return model


def remove_masks(model: nn.Module) -> nn.Module:
    """Forget the masks of a model and its parts. Weights keep their zeros but may move again."""
    for module in model.modules():
        held = module.__dict__.pop(MASKS_ATTRIBUTE, None)
        if isinstance(held, MaskSet):
            held.drop()
    return model
