"""Which attributes must change after a cut, solved from the sizes operators are called with.

Every integer that reached an operator in a watched forward pass gives one equation,

    expression over attributes = size that the typed program wants there after the cut,

including those that must not change. Attributes are solved together per connected group, fewest
edits first: a greedy solver picks the wrong attribute in fused projections. Equations that cannot
all hold mean that one attribute serves axes that were cut differently.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from probcomp.structure.axes import Structure
from probcomp.structure.provenance import Dim, Expression, Op, Slot, slots, values
from probcomp.structure.rules import Typed
from probcomp.structure.terms import Prod, Sum, Term, Var, norm, size, size_after


@dataclass(frozen=True)
class Equation:
    """``expression`` must equal ``required`` at ``site``; it was ``old`` in the dense model."""

    expression: Expression
    required: int
    old: int
    site: str

    @property
    def literal(self) -> bool:
        """Written as a number in somebody's code: no attribute can change it."""
        return isinstance(self.expression, int)

    @property
    def soft(self) -> bool:
        """Partly read from a tensor's shape, which follows the cut by itself."""
        return _reads_shape(self.expression)


def _reads_shape(expression: Expression) -> bool:
    if isinstance(expression, Op):
        return _reads_shape(expression.left) or _reads_shape(expression.right)
    return isinstance(expression, Dim)


def resizes(structure: Structure, kept: Mapping[Var, int]) -> Callable[[int], frozenset[int]]:
    """What a size may become after the cut, from every term of the program and its parts."""
    found: dict[int, set[int]] = defaultdict(set)
    seen: set[Term] = set()

    def visit(term: Term) -> None:
        term = norm(term)
        if term in seen:
            return
        seen.add(term)
        found[size(term)].add(size_after(term, kept))
        if isinstance(term, Sum):
            for i, j in itertools.combinations(range(len(term.parts) + 1), 2):
                if j - i < len(term.parts):
                    visit(Sum(term.parts[i:j]))
        elif isinstance(term, Prod):
            for i, j in itertools.combinations(range(len(term.parts) + 1), 2):
                if j - i < len(term.parts):
                    visit(Prod(term.parts[i:j]))

    for answer in structure.typing.types.values():
        for typed in [answer] if isinstance(answer, Typed) else answer:
            for term in typed.dims:
                visit(term)
    return lambda old: frozenset({old} | found.get(old, set()))


@dataclass(frozen=True)
class Solution:
    """New attribute values, and why some cannot be found (empty when all equations hold)."""

    edits: Mapping[Slot, int]
    conflicts: tuple[str, ...]


_MOST_TRIALS = 200_000


def solve(
    equations: Sequence[Equation],
    old: Mapping[Slot, int],
    follow: Callable[[int], frozenset[int]],
) -> Solution:
    """Attribute values that satisfy every equation, fewest edits first."""
    conflicts = [
        f"{e.site} uses the literal {e.old}, which would have to be {e.required}"
        for e in equations
        if e.literal and e.required != e.old
    ]
    edits: dict[Slot, int] = {}
    for group in _groups([e for e in equations if any(slots(e.expression))]):
        names = sorted({s for e in group for s in slots(e.expression)}, key=str)
        if all(_holds(e, old, follow) for e in group):
            continue
        found = _search(group, names, old, follow)
        if found is None:
            conflicts.append(_conflict(group, names))
        else:
            edits.update(found)
    return Solution(edits, tuple(conflicts))


def _groups(equations: Sequence[Equation]) -> list[list[Equation]]:
    """Equations connected by shared attributes."""
    parent: dict[Slot, Slot] = {}

    def root(slot: Slot) -> Slot:
        parent.setdefault(slot, slot)
        while parent[slot] != slot:
            parent[slot] = parent[parent[slot]]
            slot = parent[slot]
        return slot

    for equation in equations:
        first, *rest = slots(equation.expression)
        for other in rest:
            parent[root(other)] = root(first)
        root(first)
    grouped: dict[Slot, list[Equation]] = defaultdict(list)
    for equation in equations:
        grouped[root(next(slots(equation.expression)))].append(equation)
    return list(grouped.values())


def _holds(
    equation: Equation, assignment: Mapping[Slot, int], follow: Callable[[int], frozenset[int]]
) -> bool:
    return equation.required in values(equation.expression, assignment, follow)


def _search(
    group: Sequence[Equation],
    names: Sequence[Slot],
    old: Mapping[Slot, int],
    follow: Callable[[int], frozenset[int]],
) -> dict[Slot, int] | None:
    choices: dict[Slot, list[int]] = {}
    for slot in names:
        direct = {e.required for e in group if e.expression == slot}
        choices[slot] = sorted((direct | follow(old[slot])) - {old[slot]})
    hard = [e for e in group if not e.soft]
    # First everything has to hold; an equation read partly from a shape may be given up after.
    for demanded in (group, hard) if len(hard) < len(group) else (group,):
        trials = 0
        for count in range(len(names) + 1):
            for chosen in itertools.combinations(names, count):
                for new in itertools.product(*(choices[s] for s in chosen)):
                    trials += 1
                    if trials > _MOST_TRIALS:
                        return None
                    edits = dict(zip(chosen, new))
                    assignment = {**{s: old[s] for s in names}, **edits}
                    if all(_holds(e, assignment, follow) for e in demanded):
                        return edits
    return None


def _conflict(group: Sequence[Equation], names: Sequence[Slot]) -> str:
    wants = sorted({f"{e.required} (was {e.old}) in {e.site}" for e in group if not e.literal})
    listed = ", ".join(map(str, names))
    return f"no value of {listed} fits: {'; '.join(wants[:4])}"
