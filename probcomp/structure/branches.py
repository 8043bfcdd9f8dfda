"""Removable layers: residual branches, where a sum ``p + f(p)`` may become ``p`` alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from probcomp.structure.axes import Axis, Cost, Member
from probcomp.structure.ir import Instr, dependencies
from probcomp.structure.rules import Typing
from probcomp.structure.units import Names
from probcomp.structure.zeros import Zeros, plain_name


@dataclass(frozen=True, eq=False)
class Addition:
    """One sum ``stream + branch``: removal replaces ``node`` by ``stream``.

    ``region`` holds the indices of the instructions between the two.
    """

    node: fx.Node
    stream: fx.Node
    branch: fx.Node
    region: frozenset[int]


@dataclass(frozen=True, eq=False)
class Branch:
    """A unit of kind ``layer``: one residual branch, or several that share weights.

    Attributes:
        axis: its axis, of size 1.
        additions: the sums that lose their second operand.
        parameters: canonical names of the parameters that only this unit reads.
    """

    axis: Axis
    additions: tuple[Addition, ...]
    parameters: tuple[str, ...]


def find_branches(typing: Typing, parameters: set[str]) -> list[Branch]:
    """Residual branches that own parameters, in program order. Leaky ones come blocked.

    A branch is removable when nothing inside is used outside: for ``add(p, q)`` with ``p`` an
    ancestor of ``q``, the region is what descends from ``p`` and leads to ``q``.
    """
    program = typing.program
    depends = dependencies([instr.node for instr in program.instrs])
    above = _closure(depends)
    users: list[set[int]] = [set() for _ in depends]
    for index, needs in enumerate(depends):
        for need in needs:
            users[need].add(index)
    reads = _parameter_reads(typing, depends, parameters)
    found: list[tuple[Addition, set[str], str | None]] = []
    for instr, stream, branch in _sums(typing, above):
        first, last = program.of[stream].index, program.of[branch].index
        region = {
            i
            for i in range(first + 1, last + 1)
            if (i == last or above[last] >> i & 1) and above[i] >> first & 1
        }
        own = set().union(*(reads[i] for i in region))
        if own:
            addition = Addition(instr.node, stream, branch, frozenset(region))
            found.append((addition, own, _leak(typing, region, instr.index, users)))
    return _units(typing, found, reads)


def _closure(depends: list[set[int]]) -> list[int]:
    """Ancestors of every instruction, as the bits of an integer."""
    above: list[int] = []
    for needs in depends:
        bits = 0
        for need in needs:
            bits |= above[need] | 1 << need
        above.append(bits)
    return above


def _sums(typing: Typing, above: list[int]) -> Iterator[tuple[Instr, fx.Node, fx.Node]]:
    """Sums of two equal shapes where one operand comes from the other."""
    program = typing.program
    for instr in program.instrs:
        if plain_name(instr.op) not in ("add", "__iadd__") or len(instr.node.args) < 2:
            continue
        a, b = instr.node.args[:2]
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or a is b:
            continue
        if instr.arguments.get("alpha", 1) != 1 or not {a, b} <= typing.activations:
            continue
        shapes = [program.of[n].shape for n in (a, b) if hasattr(program.of[n].value, "shape")]
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            continue
        for stream, branch in ((a, b), (b, a)):
            if above[program.of[branch].index] >> program.of[stream].index & 1:
                yield instr, stream, branch


def _parameter_reads(
    typing: Typing, depends: list[set[int]], parameters: set[str]
) -> list[set[str]]:
    """Parameters each activation reads, also through parameter-only sub-graphs."""
    program = typing.program
    names = {node: name for name, node in program.holders.items() if name in parameters}
    reads: list[set[str]] = []
    for instr, needs in zip(program.instrs, depends):
        own = {names[instr.node]} if instr.node in names else set()
        for need in needs:
            if program.instrs[need].node not in typing.activations:
                own |= reads[need]
        reads.append(own)
    return reads


def _leak(typing: Typing, region: set[int], end: int, users: list[set[int]]) -> str | None:
    """Who uses a value of the region outside it, if anyone does."""
    for index in sorted(region):
        outside = sorted(users[index] - region - {end})
        if outside:
            instr, user = (typing.program.instrs[i] for i in (index, outside[0]))
            reader = "it is an output" if user.kind == "output" else f"{user.site} reads it too"
            return f"the branch also computes {instr.site}, and {reader}"
    return None


def _units(
    typing: Typing,
    found: list[tuple[Addition, set[str], str | None]],
    reads: list[set[str]],
) -> list[Branch]:
    """Join branches that share weights, and describe each group as an axis."""
    groups: list[tuple[list[Addition], set[str], str | None]] = []
    for addition, own, leak in found:
        shared = [g for g in groups if leak is None and g[2] is None and g[1] & own]
        joined = (
            [a for g in shared for a in g[0]] + [addition],
            own.union(*(g[1] for g in shared)),
        )
        groups = [g for g in groups if g not in shared] + [(*joined, leak)]
    names = Names()
    order = {instr.node: instr.index for instr in typing.program.instrs}
    groups.sort(key=lambda g: order[g[0][0].node])
    return [_describe(typing, *group, names, reads) for group in groups]


def _describe(
    typing: Typing,
    additions: list[Addition],
    own: set[str],
    leak: str | None,
    names: Names,
    reads: list[set[str]],
) -> Branch:
    region = frozenset().union(*(a.region for a in additions))
    elsewhere: set[str] = set()
    for instr in typing.program.instrs:
        if instr.index not in region and instr.node in typing.activations:
            elsewhere |= reads[instr.index]
    only = tuple(name for name in typing.program.holders if name in own - elsewhere)
    shapes = {name: tuple(typing.program.holders[name].meta["val"].shape) for name in only}
    if leak is None and not only:
        leak = "all its weights are used elsewhere too"
    exact = leak is None and _vanishes(typing, additions, only)
    why = None if exact or leak else "its result does not vanish when its weights are zero"
    axis = Axis(
        name=names.unique(f"{_path(shapes or dict.fromkeys(own, ()))}.layer".lstrip(".")),
        kind="layer",
        size=1,
        members=tuple(
            Member(name, 0, torch.arange(int(shape[0]))[None])
            for name, shape in shapes.items()
            if shape
        ),
        cost=Cost(0.0, 0.0),
        exact=exact,
        inexact_because=why,
        blocked=leak,
        min_keep=1 if leak else 0,
    )
    return Branch(axis, tuple(additions), only)


def _vanishes(typing: Typing, additions: list[Addition], only: tuple[str, ...]) -> bool:
    """Whether every branch result is zero once the unit's own weights are."""
    program = typing.program
    start = [program.holders[name] for name in only if program.holders[name].meta["val"].ndim]
    zeros = Zeros(program.instrs, lambda node: 1, start)
    return all(zeros.vanishes(a.branch) for a in additions)


def _path(shapes: dict[str, tuple[int, ...]]) -> str:
    """The deepest module that holds most of the weights."""
    weight = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    path: tuple[str, ...] = ()
    while True:
        share: dict[tuple[str, ...], int] = {}
        for name, n in weight.items():
            parts = tuple(name.split(".")[:-1])
            if parts[: len(path)] == path and len(parts) > len(path):
                share[parts[: len(path) + 1]] = share.get(parts[: len(path) + 1], 0) + n
        best = max(share, key=lambda key: share[key], default=None)
        if best is None or share[best] <= MOST * sum(weight.values()):
            return ".".join(path)
        path = best


# A branch is named after a module once that holds this share of its weights: an attention module
# that is preceded by its norm gives the name, one linear layer of two does not.
MOST = 0.7
