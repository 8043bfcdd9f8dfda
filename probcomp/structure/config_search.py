"""Which configuration gives these shapes: a stock class rebuilt with the widths of a cut model.

No field is known by name. A field matters when changing it changes shapes of a module built on the
meta device; its new value follows from the ratio of a new dimension to the old one; a candidate
counts only when every shape comes out right.
"""

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
Build = Callable[[Any], nn.Module]
Edits = dict[str, Any]

_MOST_BUILDS = 400


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer, by name."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: tuple(t.shape) for name, t in tensors}


def edited(config: Any, edits: Mapping[str, Any]) -> Any:
    """A copy of ``config`` with some fields changed, without the checks of its constructor."""
    twin = copy.deepcopy(config)
    for name, value in edits.items():
        twin.__dict__[name] = value
    return twin


class _Family:
    """Modules that a builder makes from variants of one configuration."""

    def __init__(self, build: Build, config: Any, within: Callable[[str], bool]) -> None:
        self.build = build
        self.config = config
        self.within = within
        self.known: dict[tuple[tuple[str, Any], ...], dict[str, tuple[int, ...]] | None] = {}

    def shapes(self, edits: Edits) -> dict[str, tuple[int, ...]] | None:
        key = tuple(sorted(edits.items()))
        if key not in self.known:
            try:
                with torch.device("meta"):
                    made = shapes_of(self.build(edited(self.config, edits)))
                self.known[key] = {n: s for n, s in made.items() if self.within(n)}
            except Exception:  # any constructor may refuse any value in its own way
                self.known[key] = None
        return self.known[key]

    def affected(self, field: str, value: int, base: Edits) -> set[tuple[str, int]]:
        """Dimensions that change with ``field``."""
        before = self.shapes(base)
        if before is None:
            return set()
        for other in (2 * value, 3 * value, value // 2, value + 1, value - 1):
            after = self.shapes({**base, field: other}) if other > 0 else None
            if after is not None and after != before:
                return {
                    (name, d)
                    for name, shape in before.items()
                    if len(after.get(name, ())) == len(shape)
                    for d, n in enumerate(shape)
                    if after[name][d] != n
                }
        return set()


def search(
    build: Build,
    config: Any,
    target: Shapes,
    *,
    extra: Mapping[str, int] | None = None,
    within: Callable[[str], bool] = lambda name: True,
) -> Edits | None:
    """Fewest field changes with which ``build(config)`` has the ``target`` shapes.

    Args:
        build: makes the module from a configuration; called on the meta device.
        config: where the search starts.
        target: shape of every tensor whose name is ``within``.
        extra: fields the configuration lacks but the code may read, with their present values.
        within: which names to compare.

    Returns:
        The changes, or None when no change of integer fields explains the shapes.
    """
    family = _Family(build, config, within)
    target = {n: s for n, s in target.items() if within(n)}
    for base in ({}, dict(extra or {})) if extra else ({},):
        found = _search(family, base, target)
        if found is not None:
            return found
    return None


def _search(family: _Family, base: Edits, target: Shapes) -> Edits | None:
    before = family.shapes(base)
    if before is None or set(before) != set(target):
        return None
    if before == target:
        return {}
    ratios = {
        (name, d): (old, new)
        for name, shape in before.items()
        for d, (old, new) in enumerate(zip(shape, target[name]))
        if old != new
    }
    fields = {
        name: value
        for name, value in {**vars(family.config), **base}.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 1
    }
    choices: dict[str, list[int]] = {}
    for field, value in fields.items():
        touched = family.affected(field, value, base) & set(ratios)
        pairs = {ratios[place] for place in touched}
        values = {value * new // old for old, new in pairs if value * new % old == 0}
        if values := values - {value, 0}:
            choices[field] = sorted(values)
    tried = 0
    for count in range(1, len(choices) + 1):
        for chosen in itertools.combinations(sorted(choices), count):
            for new in itertools.product(*(choices[f] for f in chosen)):
                tried += 1
                if tried > _MOST_BUILDS:
                    return None
                edits = {**base, **dict(zip(chosen, new))}
                if family.shapes(edits) == target:
                    return _needed(family, edits, target)
    return None


def _needed(family: _Family, edits: Edits, target: Shapes) -> Edits:
    """Without the changes that make no difference."""
    for name in list(edits):
        fewer = {k: v for k, v in edits.items() if k != name}
        if family.shapes(fewer) == target:
            edits = fewer
    return edits


# Lists of layers ---------------------------------------------------------------------------------


def layer_builder(layer: nn.Module) -> Callable[[Any, int], nn.Module] | None:
    """How to make a layer of this class from a configuration, if that is all it takes."""
    cls = type(layer)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    names = [p.name for p in parameters]
    if not names or names[0] != "config" or not set(required) <= {"config", "layer_idx"}:
        return None
    if "layer_idx" in names:
        return lambda config, i: cls(config, layer_idx=i)
    return lambda config, i: cls(config)


def layer_list(model: nn.Module) -> str | None:
    """Path of the one list of equal layers in a model, or None when there is none or several."""
    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(m) for m in module}) == 1
        and layer_builder(module[0]) is not None
    ]
    return found[0] if len(found) == 1 else None


def readable_extras(layer: nn.Module, config: Any) -> dict[str, int]:
    """Integer attributes of a layer's parts that the configuration does not have.

    Code such as ``getattr(config, "head_dim", hidden // heads)`` reads them when they are there.
    """
    extras: dict[str, int] = {}
    for module in layer.modules():
        for name, value in vars(module).items():
            if name.startswith("_") or name == "layer_idx":
                continue
            size = isinstance(value, int) and not isinstance(value, bool) and value > 1
            if size and getattr(config, name, None) is None:
                extras.setdefault(name, value)
    return extras
