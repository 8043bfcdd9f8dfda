"""Removable layers: residual branches, where a sum ``p + f(p)`` may become ``p`` alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from probcomp.structure.axes import Axis, Cost, Member
from probcomp.structure.ir import Instr, dependencies, shape_of
from probcomp.structure.rules import RULES, Typing
from probcomp.structure.rules.elementwise import identity
from probcomp.structure.units import Names
from probcomp.structure.zeros import Zeros, plain_name


@dataclass(frozen=True, eq=False)
class Addition:
    """One summand that can go: removal replaces ``node``, a sum of two, by its other operand.

    Attributes:
        node: the sum.
        other: its other operand (the stream, or a partial sum with parallel branches).
        branch: the operand that goes.
        region: indices of the instructions between the stream and the branch's result.
    """

    node: fx.Node
    other: fx.Node
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

    A branch is removable when nothing inside is used outside: for a sum of ``p`` and ``q`` with
    ``p`` an ancestor of ``q``, the region is what descends from ``p`` and leads to ``q``.
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
    for node, other, branch, first in _summands(typing, above):
        last = program.of[branch].index
        region = {
            i
            for i in range(first + 1, last + 1)
            if (i == last or above[last] >> i & 1) and above[i] >> first & 1
        }
        own = set().union(*(reads[i] for i in region))
        if own:
            leak = _leak(typing, region, program.of[node].index, users)
            found.append((Addition(node, other, branch, frozenset(region)), own, leak))
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


def _summands(typing: Typing, above: list[int]) -> Iterator[tuple[fx.Node, fx.Node, fx.Node, int]]:
    """Summands that come from another summand of the same sum: (sum, other, summand, stream).

    Sums of sums count as one, so that parallel branches ``p + f(p) + g(p)`` are two units.
    """
    program = typing.program
    sums = {i.node: pair for i in program.instrs if (pair := _operands(typing, i)) is not None}
    inner = {n for pair in sums.values() for n in pair if n in sums and len(n.users) == 1}
    for top in sums:
        if top in inner:
            continue
        parts: list[tuple[fx.Node, fx.Node, fx.Node]] = []
        stack = [top]
        while stack:
            node = stack.pop()
            for part, other in (sums[node], sums[node][::-1]):
                if part in inner:
                    stack.append(part)
                else:
                    parts.append((node, other, part))
        for node, other, part in parts:
            at = program.of[part].index
            streams = [p for _, _, p in parts if p is not part]
            sources = [i for p in streams for i in _origins(typing, p) if above[at] >> i & 1]
            if sources:
                yield node, other, part, max(sources)


def _operands(typing: Typing, instr: Instr) -> tuple[fx.Node, fx.Node] | None:
    """The two operands of a sum of activations of equal shape."""
    if plain_name(instr.op) not in ("add", "__iadd__") or len(instr.node.args) < 2:
        return None
    a, b = instr.node.args[:2]
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or a is b:
        return None
    if instr.arguments.get("alpha", 1) != 1 or not {a, b} <= typing.activations:
        return None
    values = [n.meta.get("val") for n in (a, b)]
    if not all(isinstance(v, torch.Tensor) for v in values):
        return None
    return (a, b) if shape_of(values[0]) == shape_of(values[1]) else None


def _origins(typing: Typing, node: fx.Node) -> Iterator[int]:
    """The value and what it was before casts: a stream may be cast on its way to the sum."""
    yield typing.program.of[node].index
    while RULES.get(typing.program.of[node].op) is identity and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        yield typing.program.of[node].index


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
    for addition in additions:
        inside = [
            i
            for i in program.instrs[: program.of[addition.node].index]
            if i.index in addition.region or i.node not in typing.activations
        ]
        if not Zeros(inside, lambda node: 1, start).vanishes(addition.branch):
            return False
    return True


def replacements(typing: Typing, branches: Iterable[Branch]) -> dict[fx.Node, fx.Node]:
    """What each sum becomes without these branches: sum -> the operand that is left."""
    additions = [addition for branch in branches for addition in branch.additions]
    gone = {addition.branch for addition in additions}
    sums = {addition.node for addition in additions}
    instead: dict[fx.Node, fx.Node] = {}
    for node in sorted(sums, key=lambda n: typing.program.of[n].index):  # inner sums come first
        left, right = _operands(typing, typing.program.of[node]) or (node, node)
        if left in gone and right in gone:
            gone.add(node)
            for user in set(node.users) - sums:  # where what is left of the sum meets the stream
                a, b = _operands(typing, typing.program.of[user]) or (node, node)
                instead[user] = b if a is node else a
        else:
            instead[node] = right if left in gone else left
    return instead


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
