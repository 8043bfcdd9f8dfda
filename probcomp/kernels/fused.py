"""Whole MLPs in one call: a module that is a chain of linear layers runs in the C++ kernel.

`fuse` changes how a module computes and nothing else: its parameters, its children, their names and
its ``state_dict`` stay, and whatever is not plain inference (gradients, training mode, hooks, a
compiler, another dtype or device) runs the module's own ``forward``.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probcomp.kernels import cpp
from probcomp.kernels.blocks import BlockWeight, as_blocks, pack_blocks
from probcomp.kernels.chain_trace import Steps, trace_steps
from probcomp.kernels.compact import CompactWeight
from probcomp.kernels.module import MaskedLinear
from probcomp.kernels.watching import unwatched

BLOCKS = {(16, 4): 1.15, (16, 1): 1.45}
"""Block shapes and the cost of a stored value in them, relative to the dense panels. They are low,
since a chain is bound by arithmetic in the cache, where a short vector costs little."""

_Linear = nn.Linear | MaskedLinear


class _Read(NamedTuple):
    """A tensor that a plan was made from, and how to tell that it is still the same."""

    owner: dict[str, Any]  # the parameters or buffers of its layer
    name: str
    tensor: Tensor
    address: int
    version: int
    memory: Tensor  # held, so that no other tensor is given its address meanwhile

    def stands(self) -> bool:
        tensor = self.tensor
        return (
            self.owner.get(self.name) is tensor
            and tensor.data_ptr() == self.address
            and tensor._version == self.version
        )


class _Kept:
    """The plan of a module; copies and pickles of the module make their own."""

    def __init__(self) -> None:
        self.layers: tuple[tuple[str, _Linear], ...] = ()
        self.inputs = 0
        self.reads: list[_Read] = []
        self.chain: cpp.Chain | None = None

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return _Kept()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Kept, ())


class Fused(nn.Module):
    """What `fuse` puts before the class of a module. Not for use by itself."""

    _steps: Steps
    _original: type[nn.Module]
    _kept: _Kept

    def forward(self, x: Tensor) -> Any:
        if not _is_plain(x) or not _may_run(self):
            return super().forward(x)
        chain = _chain_of(self)
        flat = x.flatten(1) if self._steps.flattens else x.reshape(-1, x.shape[-1])
        if chain is None or flat.shape[1] != self._kept.inputs:
            return super().forward(x)
        y = cpp.run_chain(flat, chain)
        return y if self._steps.flattens or x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])

    def train(self, mode: bool = True) -> Any:
        if "_kept" in self.__dict__:
            self._kept.chain = None
        return super().train(mode)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _blank, (self._original, self._steps), self.__dict__


def fuse(module: nn.Module, steps: Steps | None = None) -> bool:
    """Let a chain of linear layers and activations run as one call, in place.

    A layer with zeros in its weight is kept in blocks where that is cheaper. Weights may
    change: a write through autograd or under ``no_grad`` is seen (one through ``.data`` only after
    a call of ``train`` or ``eval``, or when it moves the memory).

    Args:
        module: Such as ``nn.Sequential(nn.Linear(..), nn.ReLU(), nn.Linear(..))``, or a class with
            its own ``forward`` of this form.
        steps: The chain, where it is known; traced by default.

    Returns:
        Whether the module is such a chain, and runs as one now.
    """
    if isinstance(module, Fused):
        return "_kept" in module.__dict__
    steps = trace_steps(module) if steps is None else steps
    if steps is None or _links(module, steps) is None:
        return False
    module.__dict__["_kept"] = _Kept()
    module.__class__ = _fused_class(type(module), steps)  # type: ignore[arg-type]
    return True


def unfuse(model: nn.Module) -> None:
    """Undo `fuse` on a module and all of its parts, in place."""
    for _, part in list(fused_modules(model)):
        part.__class__ = part._original  # type: ignore[assignment]
        del part.__dict__["_kept"]


def fused_modules(model: nn.Module) -> Iterator[tuple[str, Fused]]:
    """Names and modules that `fuse` has changed."""
    for name, module in model.named_modules():
        if isinstance(module, Fused) and "_kept" in module.__dict__:
            yield name, module


def weights_kept(module: nn.Module) -> tuple[float, float]:
    """Live and stored weights of a module that `fuse` changed, as shares of its dense ones."""
    links = _links(module, module._steps) if isinstance(module, Fused) else None
    layers = [layer for _, layer, _ in links or ()]
    whole = sum(layer.in_features * layer.out_features for layer in layers)
    live = sum(int((_weight(layer) != 0).sum()) for layer in layers)
    stored = sum(
        min(_layer(layer).held[0].numel(), layer.in_features * layer.out_features)
        for layer in layers
    )
    return live / whole, stored / whole


@functools.cache
def _fused_class(original: Any, steps: Steps) -> type[nn.Module]:
    fields = {"_steps": steps, "_original": original, "__module__": original.__module__}
    return type(original.__name__, (Fused, original), fields)


def _blank(original: type[nn.Module], steps: Steps) -> nn.Module:
    """For copies and pickles: a module without state, of the fused class."""
    fused = _fused_class(original, steps)  # type: ignore[arg-type]
    return fused.__new__(fused)


def _is_plain(x: Any) -> bool:
    """A float32 CPU tensor that nothing watches and that wants no gradient."""
    return (
        isinstance(x, Tensor)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() >= 2
        and not (x.requires_grad and torch.is_grad_enabled())
        and unwatched(x)
    )


def _may_run(module: nn.Module) -> bool:
    """Inference, and no hook or own ``forward`` of a child that the one call would pass over."""
    # A slice of a fused ``nn.Sequential`` has its class and no plan: it is another chain.
    if module.training or "_kept" not in module.__dict__:
        return False
    learns = torch.is_grad_enabled()
    for part in module._modules.values():
        if part is None:
            continue
        if part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__:
            return False
        if learns and any(p.requires_grad for p in part._parameters.values() if p is not None):
            return False
    return True


def _chain_of(module: Fused) -> cpp.Chain | None:
    kept, children = module._kept, module._modules
    same = all(children.get(name) is layer for name, layer in kept.layers)
    if kept.chain is not None and same and all(read.stands() for read in kept.reads):
        return kept.chain
    links = _links(module, module._steps)
    if links is None or not cpp.available():
        return None
    kept.layers = tuple((name, layer) for name, layer, _ in links)
    kept.inputs = links[0][1].in_features
    kept.reads = [
        _Read(owner, name, tensor, tensor.data_ptr(), tensor._version, tensor.detach())
        for _, layer in kept.layers
        for owner in (layer._parameters, layer._buffers)  # a packed layer's places are buffers
        for name, tensor in owner.items()
        if tensor is not None
    ]
    kept.chain = cpp.chain(
        [_layer(layer) for _, layer in kept.layers],
        [layer._parameters.get("bias") for _, layer in kept.layers],
        [activation for _, _, activation in links],
    )
    return kept.chain


def _links(module: nn.Module, steps: Steps) -> list[tuple[str, _Linear, str]] | None:
    """Name, layer and activation of each; None where the kernel does not run one of them."""
    found: list[tuple[str, _Linear, str]] = []
    for name, activation in steps.layers:
        layer = module.get_submodule(name)
        if isinstance(layer, MaskedLinear):
            exact = layer.kind in (BlockWeight, CompactWeight)
            # An activation of its own comes before the one that follows it in the chain.
            if not exact or "none" not in (layer.activation, activation):
                return None
            activation = layer.activation if activation == "none" else activation
        elif not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:  # no subclass
            return None
        if any(p.dtype != torch.float32 or p.is_inference() for p in layer.parameters()):
            return None  # a write to an inference tensor leaves no trace
        found.append((name, layer, activation))
    return found


def _weight(layer: _Linear) -> Tensor:
    return layer.packed().dense() if isinstance(layer, MaskedLinear) else layer.weight.detach()


def _layer(layer: _Linear) -> cpp.Layer:
    packed = layer.packed() if isinstance(layer, MaskedLinear) else None
    if isinstance(packed, BlockWeight) and packed.block[0] % 16 == 0:
        return _blocks(packed)
    weight = _weight(layer)
    live = weight != 0
    stored = {block: as_blocks(live, block).any(-1).any(-1).float().mean() for block in BLOCKS}
    costs = {block: float(stored[block]) * BLOCKS[block] for block in BLOCKS}
    best = min(costs, key=lambda block: costs[block])
    if costs[best] < 1.0:
        return _blocks(pack_blocks(weight, live, None, best))
    return cpp.dense_layer(weight)


def _blocks(packed: BlockWeight) -> cpp.Layer:
    return cpp.block_layer(packed.val, packed.index, packed.shape[0])
