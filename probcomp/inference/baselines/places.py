"""Where the scale variables of group methods sit: on what a layer reads.

Two kinds of place, found for any module:

``units``
    The units of one axis of the structure. The variable of a unit multiplies the unit's value where
    linear layers and convolutions read it, so a unit whose variable is zero can be cut out.
``features``
    The inputs of one linear layer that no axis covers one to one: the pixels of an image, or the
    positions of a flattened channel.

For a chain of layers these are the variables of the publications, which put them on the inputs
of dense layers and on the feature maps of convolutions (Louizos, Ullrich and Welling 2017,
section 5; Neklyudov et al. 2017, section 4): the value of a feature map times a positive number
passes a ReLU or a maximum unchanged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from probcomp.inference.training.units import UnitGroup, slots

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Reader:
    """A layer that reads the units of a place.

    Attributes:
        layer: Name of the layer.
        index: The unit at each of the layer's input positions, [inputs]; -1 where there is none.
    """

    layer: str
    index: Tensor

    @cached_property
    def identity(self) -> bool:
        """Whether each input position is the unit of the same number."""
        return torch.equal(self.index, torch.arange(len(self.index)))

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """Values of the units [..., size] at the layer's input positions, [..., inputs]."""
        if self.identity:
            return values
        picked = values[..., self.index.clamp_min(0)]
        return picked.masked_fill(self.index < 0, fill) if bool((self.index < 0).any()) else picked


@dataclass(frozen=True)
class Place:
    """Units that share the readers of their values.

    Attributes:
        name: Name of the axis, or of the layer whose inputs these are.
        kind: ``units`` or ``features``.
        size: Number of units.
        readers: The layers that read them.
        fan: Weights that read each unit, [size].
        owned: Parameters that go with each unit, on both sides, [size]; the fan for features.
    """

    name: str
    kind: str
    size: int
    readers: tuple[Reader, ...]
    fan: Tensor
    owned: Tensor


def find_places(
    model: nn.Module, units: Sequence[UnitGroup], layers: Sequence[str]
) -> tuple[Place, ...]:
    """The places of a model, in the order of its layers.

    Args:
        model: The network.
        units: Groups of units that may be removed.
        layers: Names of the layers whose forward pass is really called.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    shapes |= {name: tuple(b.shape) for name, b in model.named_buffers()}
    gates = slots(units, shapes)
    readers: dict[str, list[Reader]] = {group.name: [] for group in units}
    found: dict[str, Place] = {}
    order: list[str] = []
    for name in layers:
        layer = model.get_submodule(name)
        if not isinstance(layer, READERS) or getattr(layer, "groups", 1) != 1:
            continue
        here = [slot for slot in gates[_weight(name)] if slot.dim == 1]
        inputs = int(layer.weight.shape[1])
        if isinstance(layer, nn.Linear) and not _one_to_one([s.index for s in here], inputs):
            index = torch.arange(inputs)
            fan = torch.full((inputs,), layer.weight.shape[0])
            key = f"{name}.inputs" if name else "inputs"
            found[key] = Place(key, "features", inputs, (Reader(name, index),), fan, fan)
            order.append(key)
        for slot in here:
            readers[slot.group].append(Reader(name, slot.index))
            if slot.group not in order:
                order.append(slot.group)
    for group in units:
        mine = tuple(readers[group.name])
        if mine:
            fan = torch.stack([_fan(model, reader, group.size) for reader in mine]).sum(0)
            owned = torch.full((group.size,), _owned(group, shapes))
            found[group.name] = Place(group.name, "units", group.size, mine, fan, owned)
    return tuple(found[name] for name in order)


def columns(places: Sequence[Place], alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each reading layer's weight, which input positions all places leave alive, [inputs]."""
    kept: dict[str, Tensor] = {}
    for place in places:
        for reader in place.readers:
            name = _weight(reader.layer)
            here = reader.spread(alive[place.name].float(), 1.0) > 0
            kept[name] = kept[name] & here if name in kept else here
    return kept


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _one_to_one(indices: Sequence[Tensor], inputs: int) -> bool:
    """Whether some axis has one unit of its own for each input."""
    return any(bool((index >= 0).all()) and len(torch.unique(index)) == inputs for index in indices)


def _owned(group: UnitGroup, shapes: Mapping[str, Sequence[int]]) -> int:
    total = 0
    for member in group.members:
        shape = shapes[member.parameter]
        positions = member.index.numel() // group.size
        total += math.prod(shape) // shape[member.dim] * positions
    return total


def _fan(model: nn.Module, reader: Reader, size: int) -> Tensor:
    weight = model.get_submodule(reader.layer).weight
    each = weight.numel() // weight.shape[1]  # type: ignore[operator, index]
    here = reader.index[reader.index >= 0]
    return torch.bincount(here, minlength=size) * each
