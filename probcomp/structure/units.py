"""From typed dimensions to axes: which variables are units, of which kind, and how exact."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from torch import fx

from probcomp.structure.axes import Axis, Cost, Member
from probcomp.structure.rules import Typed, Typing
from probcomp.structure.terms import Prod, Term, Var, leaves, norm, positions, size_after
from probcomp.structure.zeros import Zeros


def find_axes(typing: Typing, parameters: set[str]) -> list[Axis]:
    """All axes of a typed program, in the order in which the model first uses them.

    Costs are filled in later (`probcomp.structure.cost`). ``parameters`` are the names that are
    parameters; what only buffers and constants share with each other costs nothing and is no axis.
    """
    names = Names()
    carriers = _carriers(typing)
    axes: list[Axis] = []
    for var, found in _places(typing).items():
        owned = [(name, dim) for name, dim in found if name in parameters]
        if not owned:
            continue
        kind = _kind(var, typing)
        blocked = next((str(e) for e in var.events if e.kind == "blocked"), None)
        why = None if blocked else _inexact(var, typing, carriers.get(var, {}))
        axes.append(
            Axis(
                name=names.give(owned[0][0], kind),
                kind=kind,
                size=var.size,
                members=tuple(_members(var, found, typing)),
                cost=Cost(0.0, 0.0),
                exact=blocked is None and why is None,
                inexact_because=why,
                blocked=blocked,
                min_keep=var.size if blocked else _min_keep(var, typing),
                var=var,
            )
        )
    return axes


def holder_dims(typing: Typing, name: str) -> tuple[Term, ...]:
    """Terms of the dimensions of a parameter or buffer, in normal form."""
    typed = typing.types[typing.program.holders[name]]
    assert isinstance(typed, Typed)
    return tuple(norm(term) for term in typed.dims)


def _places(typing: Typing) -> dict[Var, list[tuple[str, int]]]:
    """Variable -> (holder, dimension) pairs, both in the order of first use by the program."""
    program = typing.program
    first_use: dict[str, int] = {}
    by_node = {node: name for name, node in program.holders.items()}
    for instr in program.instrs:
        for node in instr.inputs:
            if node in by_node:
                first_use.setdefault(by_node[node], instr.index)
    order = sorted(program.holders, key=lambda name: first_use.get(name, len(program.instrs)))
    places: dict[Var, list[tuple[str, int]]] = {}
    for name in order:
        for dim, term in enumerate(holder_dims(typing, name)):
            for var in leaves(term):
                places.setdefault(var, []).append((name, dim))
    return places


def _carriers(typing: Typing) -> dict[Var, dict[fx.Node, int]]:
    """Variable -> nodes whose tensor holds it, with the number of dimensions that do."""
    found: dict[Var, dict[fx.Node, int]] = {}
    for node, typed in typing.types.items():
        for one in typed if isinstance(typed, list) else [typed]:
            count = Counter(var for term in one.dims for var in leaves(term))
            for var, n in count.items():
                nodes = found.setdefault(var, {})
                nodes[node] = max(n, nodes.get(node, 0))
    return found


class Names:
    """Readable unique names: module path of the first parameter, then the kind."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def give(self, parameter: str, kind: str) -> str:
        path, _, own = f".{parameter}".rpartition(".")
        path = path.partition(".parametrizations.")[0].strip(".")
        return self.unique(f"{path or own}.{kind}")

    def unique(self, base: str) -> str:
        self.seen[base] += 1
        return base if self.seen[base] == 1 else f"{base}.{self.seen[base]}"


def _kind(var: Var, typing: Typing) -> str:
    """What the units are, from what operators did to them and never from names."""
    kinds = {event.kind for event in var.events}
    if "expert" in kinds or {"selected", "indexed"} <= kinds:
        return "expert"
    if "attn_batch" in kinds:
        role = _group_role(var, typing)
        return {"outer": "kv_group", "inner": "query_in_group"}.get(role, "head")
    if kinds & {"attn_contract", "attn_value"}:
        return "head_dim"
    if "stat" in kinds and "added" in kinds:
        return "residual"
    return "channel" if "conv" in kinds else "neuron"


def _group_role(var: Var, typing: Typing) -> str:
    """Place of a head variable in ``Prod[.., K, G, ..]`` with ``G`` expanded over queries."""
    for name in typing.program.holders:
        for term in holder_dims(typing, name):
            for word in _products(term):
                for outer, inner in pairwise(word):
                    if not (isinstance(outer, Var) and isinstance(inner, Var)):
                        continue
                    grouped = {"attn_batch", "expanded"} <= {e.kind for e in inner.events}
                    if grouped and "expanded" not in {e.kind for e in outer.events}:
                        if outer is var:
                            return "outer"
                        if inner is var:
                            return "inner"
    return ""


def _products(term: Term) -> Iterator[tuple[Term, ...]]:
    if isinstance(term, Var):
        return
    if isinstance(term, Prod):
        yield term.parts
    for part in term.parts:
        yield from _products(part)


def _members(var: Var, found: list[tuple[str, int]], typing: Typing) -> Iterator[Member]:
    for name, dim in found:
        node = typing.program.holders[name]
        if name in typing.program.constants or not node.meta["val"].is_floating_point():
            continue  # sliced by a cut, but a zero would change what it says
        term = holder_dims(typing, name)[dim]
        if not _never_zero(var, node, typing):
            yield Member(name, dim, positions(term, var))


def _never_zero(var: Var, node: fx.Node, typing: Typing) -> bool:
    return any(n is node and any(v is var for v in leaves(t)) for n, t in typing.never_zero)


def _inexact(var: Var, typing: Typing, carries: dict[fx.Node, int]) -> str | None:
    """Why zeroing the members of a unit differs from removing it, if it does."""
    statistic = next((e for e in var.events if e.kind == "stat"), None)
    if statistic is not None:
        return f"{statistic} counts units that are zero"
    program = typing.program
    zeroed = [
        node
        for name, node in program.holders.items()
        if node in carries
        and name not in program.constants
        and node.meta["val"].is_floating_point()
        and not _never_zero(var, node, typing)
    ]
    touched = sorted(
        {program.of[user] for node in carries for user in (node, *node.users)},
        key=lambda instr: instr.index,
    )
    culprit = Zeros(touched, lambda node: carries.get(node, 0), zeroed).unguarded
    if culprit is None:
        return None
    return f"{culprit.site} sums over values that stay nonzero when the weights of a unit are zero"


def _min_keep(var: Var, typing: Typing) -> int:
    least = 1
    for minimum in typing.minima:
        if any(v is var for v in leaves(minimum.term)):
            while least < var.size and size_after(minimum.term, {var: least}) < minimum.count:
                least += 1
    return least
