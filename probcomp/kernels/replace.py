"""Put packed layers into a model where they are measured to be faster, and take them out again."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.kernels.blocks import BlockWeight, from_blocks
from probcomp.kernels.compact import CompactWeight
from probcomp.kernels.module import MaskedLinear
from probcomp.kernels.packing import pack

SMALLEST = 2**14  # weights; below, the call costs more than the product
GAIN = 1.1
ROUNDS = 11


@dataclasses.dataclass(frozen=True)
class PackedLayer:
    """One linear layer that was tried.

    Attributes:
        name: Of the module.
        format: ``"blocks"`` or ``"compact"``.
        density: Share of the weight that lives.
        stored: Share that is stored.
        rows: Input rows of one call, as the model makes it.
        speedup: Time of the dense layer over the packed one's, median of paired rounds.
        used: Whether the packed layer took the dense one's place.
    """

    name: str
    format: str
    density: float
    stored: float
    rows: int
    speedup: float
    used: bool


def pack_layers(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    run: Callable[[nn.Module], Any],
    *,
    gain: float = GAIN,
    rounds: int = ROUNDS,
) -> tuple[PackedLayer, ...]:
    """Replace masked linear layers by packed ones, each where that is measured to be faster.

    The packed layers train under their masks, compile and export, as `MaskedLinear` does.
    `unpack_layers` undoes it exactly.

    Args:
        model: Changed in place.
        masks: Name of a weight to its mask; only `torch.nn.Linear` layers are looked at, of at
            least `SMALLEST` weights.
        run: Runs the model on typical input, to learn how many rows each layer sees.
        gain: How much faster a packed layer must be to be used.
        rounds: Paired timings of each layer.

    Returns:
        Every layer that was tried; empty where no mask could help.
    """
    layers = {}
    for name, module in model.named_modules():
        mask = masks.get(f"{name}.weight")
        large = type(module) is nn.Linear and module.weight.numel() >= SMALLEST
        if large and mask is not None and not bool(mask.all()):
            layers[name] = (module, mask)
    inputs = _inputs(model, {name: module for name, (module, _) in layers.items()}, run)
    tried = []
    for name, (layer, mask) in layers.items():
        if name not in inputs:
            continue  # the model does not run this layer
        packed = pack(layer.weight, mask, bias=layer.bias)
        exact = isinstance(packed, BlockWeight) or mask.sum() == packed.stored
        if not exact or packed.stored == mask.numel():
            continue  # a rectangle with holes would train them back to life; nothing was saved
        sparse = MaskedLinear(packed).train(layer.training)
        ratio = _speedup(layer, sparse, inputs[name], rounds)
        used = ratio >= gain
        if used:
            _put(model, name, sparse)
        share = packed.stored / mask.numel()
        rows = inputs[name].shape[:-1].numel()
        density = float(mask.float().mean())
        tried.append(PackedLayer(name, packed.kind, density, share, rows, ratio, used))
    return tuple(tried)


def unpack_layers(model: nn.Module) -> dict[str, Tensor]:
    """Put ordinary linear layers where `pack_layers` put packed ones, in place.

    Returns:
        Name of each restored weight to its mask.
    """
    masks = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, MaskedLinear):
            continue
        packed = module.packed()
        masks[f"{name}.weight"] = support_of(packed)
        bias = getattr(module, "bias", None)
        layer = nn.Linear(
            module.in_features, module.out_features, bias=bias is not None, device="meta"
        )
        layer.weight = nn.Parameter(packed.dense())
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        _put(model, name, layer.train(module.training))
    return masks


def repack_layers(model: nn.Module, formats: Mapping[str, Mapping[str, Any]],
                  masks: Mapping[str, Tensor]) -> None:  # fmt: skip
    """Packed layers again, as `describe_layers` recorded them, without timing anything.

    Raises:
        InputError: A name that is no masked linear layer of the model.
    """
    for name, how in formats.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            layer = None
        mask = masks.get(f"{name}.weight")
        if not isinstance(layer, nn.Linear) or mask is None:
            raise InputError(f"cannot pack {name!r}: it is no masked linear layer of the model")
        block = tuple(how["block"]) if how.get("block") else "auto"
        packed = pack(layer.weight, mask, format=how["format"], block=block, bias=layer.bias)
        _put(model, name, MaskedLinear(packed).train(layer.training))


def describe_layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Format and block of each packed layer, by name, as JSON values."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, MaskedLinear):
            packed = module.packed()
            block = getattr(packed, "block", None)
            found[name] = {"format": packed.kind, "block": list(block) if block else None}
    return found


def support_of(packed: Any) -> Tensor:
    """The mask of a packed weight, bool ``[N, K]``.

    Raises:
        InputError: A format whose mask is not kept.
    """
    if type(packed) is BlockWeight:
        ones = torch.ones_like(packed.val, dtype=torch.uint8)
        stored = ones if packed.bitmap is None else packed.bitmap
        return from_blocks(stored, packed.erow, packed.col, packed.shape).bool()
    if isinstance(packed, CompactWeight):
        whole = torch.ones_like(packed.weight)
        return dataclasses.replace(packed, weight=whole).dense().bool()
    raise InputError(f"the mask of a {packed.kind} weight is not kept")


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[nn.Module], Any]
) -> dict[str, Tensor]:
    """The first input of each layer in one run of the model."""
    if not layers:
        return {}
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, args, name=name: _note(seen, name, args[0]))
        for name, layer in layers.items()
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode():
            run(model.eval())
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return seen


def _note(seen: dict[str, Tensor], name: str, x: Tensor) -> None:
    seen.setdefault(name, x.detach())


def _speedup(dense: nn.Module, packed: nn.Module, x: Tensor, rounds: int) -> float:
    """Median ratio of paired timings, after a call of each to warm caches and derived copies."""
    wait = torch.cuda.synchronize if x.is_cuda else _nothing
    with torch.inference_mode():
        repeats = 1
        for layer in (dense, packed):
            layer(x)
            start = time.perf_counter()
            layer(x)
            wait()
            repeats = max(repeats, min(100, int(5e-4 / max(time.perf_counter() - start, 1e-7))))
        ratios = []
        for _ in range(rounds):
            times = []
            for layer in (dense, packed):
                start = time.perf_counter()
                for _ in range(repeats):
                    layer(x)
                wait()
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def _nothing() -> None:
    """A CPU has nothing to wait for."""
