"""Removing residual branches from a real module.

The instructions of a branch name the modules that make it up. The module that makes the branch's
result is replaced by one that returns zeros, the others of the branch pass their input on, and a
block with nothing left in it is dropped from its list. Indices that number the layers (of a
key-value cache, say) are renumbered, found as the integer attributes that count 0, 1, 2, ...
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import SurgeryError
from probcomp.structure import gate
from probcomp.structure.axes import Structure
from probcomp.structure.ir import Instr
from probcomp.structure.provenance import is_config

# They are iterated over, never called.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


class StandIn(nn.Module):
    """Stands where a part of a removed residual branch was.

    Args:
        like: position or name of the argument that stands for the input.
        result: what to return: ``"zeros"`` in the shape of the input, ``"input"``, ``None``,
            ``["argument", key]`` for an argument that was passed through, or a tuple of these.
        width: last dimension of the zeros, where it is not that of the input.
    """

    def __init__(self, like: int | str, result: Any, width: int | None = None) -> None:
        super().__init__()
        self.like = like
        self.result = result
        self.width = width

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros, or the input, in the structure the module returned."""
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        source = given[self.like]

        def make(form: Any) -> Any:
            if form == "zeros" and self.width is not None:
                return source.new_zeros((*source.shape[:-1], self.width))
            if form == "zeros":
                return torch.zeros_like(source)
            if form == "input":
                return source
            if isinstance(form, list):
                return given.get(form[1])
            return tuple(make(f) for f in form) if isinstance(form, tuple) else None

        return make(self.result)

    def extra_repr(self) -> str:
        return f"{self.result!r}"


@dataclass(frozen=True)
class Plan:
    """What to do with which module.

    Attributes:
        instead: path -> what stands there.
        dropped: path of a list of blocks -> positions of the blocks to drop.
    """

    instead: Mapping[str, StandIn] = field(default_factory=dict)
    dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def plans(structure: Structure, model: nn.Module, names: list[str]) -> list[Plan]:
    """Ways to remove layers, the most thorough first; the gate decides which one is right.

    Raises:
        SurgeryError: when the end of a branch is not the result of one module.
    """
    region, additions = _regions(structure, names)
    unfit: set[str] = set()
    while True:
        inside = _inside(structure, model, region, unfit)
        ends = [end for name in names for end in _ends(structure, name, inside)]
        found = _record(model, structure, [*inside, *ends])
        missing = {path for path in ends if path not in found}
        if not missing:
            break
        unfit |= missing  # it returns more than the branch: look at its parts
    zeros = {path: found[path].zeros() for path in ends}
    passing = {path: seen.passing() for path, seen in found.items()}
    same = {path: seen.passing() for path, seen in found.items() if seen.same_shape}
    dropped = _empty_blocks(structure, model, region, additions)
    ways = [Plan({**passing, **zeros}), Plan({**same, **zeros}), Plan(zeros)]
    return [Plan(ways[0].instead, dropped), *ways] if dropped else ways


def _path(instr: Instr) -> str:
    return instr.module.split("@")[0]


def _regions(structure: Structure, names: list[str]) -> tuple[set[int], set[int]]:
    """Instructions that exist only for the branches, and the sums that end them."""
    program = structure.program
    region: set[int] = set()
    additions: set[int] = set()
    for name in names:
        for addition in structure.branches[name].additions:
            region |= addition.region
            additions.add(program.of[addition.node].index)
    for instr in reversed(program.instrs):
        users = {program.of[user].index for user in instr.node.users}
        if users and users <= region:
            region.add(instr.index)
    return region, additions


def _ends(structure: Structure, name: str, inside: list[str]) -> list[str]:
    """The modules that make the results of a layer's branches."""
    ends = []
    for addition in structure.branches[name].additions:
        last = [structure.program.instrs[i] for i in sorted(addition.region, reverse=True)]
        tops = (_top(_path(instr), inside) for instr in last if instr.kind == "op")
        end = next((top for top in tops if top is not None), None)
        if end is None:
            raise SurgeryError(f"layer {name!r} is written inside another module's forward")
        ends.append(end)
    return ends


def _does_nothing(instr: Instr) -> bool:
    """A cast to the type it has, or dropout: the exporter may count it before or after a branch."""
    if instr.op not in ("to", "_to_copy", "alias", "detach", "contiguous", "dropout"):
        return False
    source = next(iter(instr.inputs), None)
    value = None if source is None else source.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == instr.value.dtype


def _below(path: str, ancestor: str) -> bool:
    return path == ancestor or ancestor == "" or path.startswith(ancestor + ".")


def _inside(structure: Structure, model: nn.Module, region: set[int], unfit: set[str]) -> list[str]:
    """The largest modules, unfit ones aside, all of whose instructions belong to the branches."""
    ops = [i for i in structure.program.instrs if i.kind == "op" and not _does_nothing(i)]
    mine: list[str] = []
    for path, module in model.named_modules():
        if path == "" or path in unfit or isinstance(module, _CONTAINERS):
            continue
        if _top(path, mine) is not None:
            continue
        own = [i.index for i in ops if _below(_path(i), path)]
        if own and all(index in region for index in own):
            mine.append(path)
    return mine


def _top(path: str, inside: list[str]) -> str | None:
    return next((m for m in inside if _below(path, m)), None)


@dataclass(frozen=True)
class _Seen:
    """What a module took and returned: ``form`` has ``"main"`` where the branch's value was."""

    like: int | str
    form: Any
    same_shape: bool
    width: int

    def zeros(self) -> StandIn:
        width = None if self.same_shape else self.width
        return StandIn(self.like, _filled(self.form, "zeros"), width)

    def passing(self) -> StandIn:
        return StandIn(self.like, _filled(self.form, "input"))


def _filled(form: Any, value: str) -> Any:
    if isinstance(form, tuple):
        return tuple(_filled(f, value) for f in form)
    return value if form == "main" else form


def _record(model: nn.Module, structure: Structure, paths: list[str]) -> dict[str, _Seen]:
    """Run the dense model and see what modules take and return."""
    found: dict[str, _Seen] = {}
    handles = []

    def hook(path: str) -> Any:
        def see(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen = _seen({**dict(enumerate(args)), **kwargs}, output)
            if seen is not None:
                found[path] = seen

        return see

    for path in dict.fromkeys(paths):
        module = model.get_submodule(path)
        handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
    try:
        gate.run(model, gate.two_sizes(structure, model)[-1])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _seen(given: dict[int | str, Any], output: Any) -> _Seen | None:
    """None for a module that returns anything but its value and what it was given."""
    outputs = output if isinstance(output, tuple) else (output,)
    main = next((o for o in outputs if isinstance(o, Tensor)), None)
    tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    if main is None or not tensors:
        return None
    like = next((k for k, v in tensors.items() if v.shape == main.shape), next(iter(tensors)))
    forms: list[Any] = []
    for value in outputs:
        key = next((k for k, v in given.items() if v is value), None)
        if value is main:
            forms.append("main")
        elif value is None:
            forms.append(None)
        elif key is not None:
            forms.append(["argument", key])
        else:
            return None
    same = tensors[like].shape == main.shape
    width = int(main.shape[-1]) if main.dim() else 1
    return _Seen(like, tuple(forms) if isinstance(output, tuple) else "main", same, width)


def _empty_blocks(
    structure: Structure, model: nn.Module, region: set[int], additions: set[int]
) -> dict[str, tuple[int, ...]]:
    """Blocks of a list in which only the sums of removed branches are left."""
    ops = [i for i in structure.program.instrs if i.kind == "op" and not _does_nothing(i)]
    empty: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        gone = []
        for i in range(len(module)):
            own = [o.index for o in ops if _below(_path(o), f"{path}.{i}".lstrip("."))]
            if own and set(own) <= region | additions and set(own) & additions:
                gone.append(i)
        if gone and len(gone) < len(module):
            empty[path] = tuple(gone)
    return empty


# Doing it ----------------------------------------------------------------------------------------


def cut_layers(model: nn.Module, plan: Plan) -> None:
    """Carry out ``plan`` on ``model``, in place."""
    counters = list(_counters(model))
    for path, stand_in in plan.instead.items():
        _replace(model, path, StandIn(stand_in.like, stand_in.result, stand_in.width))
    for path, gone in plan.dropped.items():
        _drop(model, path, set(gone))
    alive = {id(module) for module in model.modules()}
    for name, modules in counters:
        left = [module for module in modules if id(module) in alive]
        if len(left) < len(modules):
            for position, module in enumerate(left):
                setattr(module, name, position)


def _counters(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """Attributes that number the blocks of a list: equal to the position in every block."""
    for module in model.modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2:
            continue
        for path, part in module[0].named_modules():
            for name, value in vars(part).items():
                if type(value) is not int or value != 0:
                    continue
                parts = [_part(block, path) for block in module]
                if all(
                    p is not None and type(vars(p).get(name)) is int and vars(p)[name] == i
                    for i, p in enumerate(parts)
                ):
                    yield name, [p for p in parts if p is not None]


def _part(block: nn.Module, path: str) -> nn.Module | None:
    try:
        return block.get_submodule(path)
    except AttributeError:
        return None


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put ``new`` in every place of the module at ``path`` (it may be shared)."""
    old = model.get_submodule(path)
    new.train(old.training)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new


def _drop(model: nn.Module, path: str, gone: set[int]) -> None:
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList | nn.Sequential)
    count = len(blocks)
    stay = [block for i, block in enumerate(blocks) if i not in gone]
    blocks._modules.clear()
    for i, block in enumerate(stay):
        blocks.add_module(str(i), block)
    for config in {
        id(c): c for m in model.modules() for c in vars(m).values() if is_config(c)
    }.values():
        if getattr(config, "num_hidden_layers", None) != count:
            continue
        for name, value in vars(config).items():  # one entry per layer
            if isinstance(value, list) and len(value) == count:
                config.__dict__[name] = [v for i, v in enumerate(value) if i not in gone]
        config.num_hidden_layers = len(stay)
