"""Put packed layers into a model where they are measured to be faster, and take them out again."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.kernels import cpp
from probcomp.kernels.blocks import BlockWeight, from_blocks
from probcomp.kernels.chain_trace import trace_steps
from probcomp.kernels.compact import CompactWeight
from probcomp.kernels.fused import fuse, fused_modules, unfuse, weights_kept
from probcomp.kernels.module import MaskedLinear
from probcomp.kernels.packing import pack
from probcomp.kernels.paired import evaluated, first_inputs, speedup

SMALLEST = 2**14  # weights; below, the call costs more than the product
GAIN = 1.1
ROUNDS = 11
AGREE = 1e-4  # float32 sums in another order, through a few layers


@dataclasses.dataclass(frozen=True)
class PackedLayer:
    """One linear layer, or one chain of them, that was tried.

    Attributes:
        name: Of the module.
        format: ``"blocks"``, ``"compact"``, or ``"chain"`` for layers that run as one call.
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

    Afterwards modules that are chains of linear layers and activations run as one call
    (`probcomp.kernels.fused`), on the same condition, if the C++ kernel is built.
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
    inputs = first_inputs(model, {name: module for name, (module, _) in layers.items()}, run)
    tried = []
    for name, (layer, mask) in layers.items():
        if name not in inputs:
            continue  # the model does not run this layer
        packed = pack(layer.weight, mask, bias=layer.bias)
        exact = isinstance(packed, BlockWeight) or mask.sum() == packed.stored
        if not exact or packed.stored == mask.numel():
            continue  # a rectangle with holes would train them back to life; nothing was saved
        sparse = MaskedLinear(packed).train(layer.training)
        ratio = speedup(layer, sparse, inputs[name], rounds)
        used = ratio >= gain
        if used:
            _put(model, name, sparse)
        share = packed.stored / mask.numel()
        rows = inputs[name].shape[:-1].numel()
        density = float(mask.float().mean())
        tried.append(PackedLayer(name, packed.kind, density, share, rows, ratio, used))
    return (*tried, *_fuse_chains(model, run, gain, rounds))


def _fuse_chains(
    model: nn.Module, run: Callable[[nn.Module], Any], gain: float, rounds: int
) -> list[PackedLayer]:
    """Let the model's MLPs run as one call of the C++ kernel, where it is built and faster."""
    modules = model.named_modules() if cpp.available() else ()
    chains = {name: module for name, module in modules if trace_steps(module) is not None}
    tried = []
    for name, x in first_inputs(model, chains, run).items():
        with evaluated(model):
            one = copy.copy(chains[name])  # shares every tensor
            ratio = 0.0
            if fuse(one) and _agree(one, chains[name], x):
                ratio = speedup(chains[name], one, x, rounds)
                density, stored = weights_kept(one)
        if ratio:
            used = ratio >= gain and fuse(chains[name])
            rows = x.shape[:-1].numel()
            title = name or "the whole model"
            tried.append(PackedLayer(title, "chain", density, stored, rows, ratio, used))
    return tried


def _agree(one: nn.Module, other: nn.Module, x: Tensor) -> bool:
    with torch.inference_mode():
        got, want = one(x), other(x)
    return bool((got - want).norm() <= AGREE * want.norm())


def unpack_layers(model: nn.Module) -> dict[str, Tensor]:
    """Put ordinary linear layers where `pack_layers` put packed ones, in place.

    Returns:
        Name of each restored weight to its mask.
    """
    unfuse(model)
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
    chains = [name for name, how in formats.items() if how["format"] == "chain"]
    for name, how in formats.items():
        if name in chains:
            continue
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
    for name in chains:
        # Another class of another version may no longer be a chain: then it runs as it is.
        fuse(model.get_submodule(name))


def describe_layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Format and block of each packed layer, and every fused chain, by name, as JSON values."""
    found: dict[str, dict[str, Any]] = {
        name: {"format": "chain"} for name, _ in fused_modules(model)
    }
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
