"""Sizes as terms: every tensor dimension is a word over size variables that operators unify.

    Term = Var | Prod[Term, ...] | Sum[Term, ...]

``Prod`` is row-major (outermost first), as in a flattened ``(heads, head_dim)``; ``Sum`` is a
concatenation, as in a fused query-key-value output. ``ONE`` (the empty product) is a single fixed
position. A view splits a variable into factors, a concatenation or slice splits it into segments,
and an elementwise operator makes two terms equal. This is type inference where the types are
sizes: the cost does not depend on the width, every survivor set is balanced by construction, and
the size of every intermediate tensor after a cut follows without running the model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from math import prod

import torch

_ids = count()


@dataclass(frozen=True)
class Site:
    """Where in the model something happens: an operator and the path of its module."""

    op: str
    module: str

    def __str__(self) -> str:
        return f"{self.op} at {self.module or 'the top module'}"


@dataclass(frozen=True)
class Event:
    """What an operator did to a variable: ``kind`` is ``blocked``, ``stat``, ``contract``, ...

    ``detail`` is a clause a user can read, such as ``"kernel extent"``.
    """

    kind: str
    site: Site
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.detail or self.kind} ({self.site})"


@dataclass(eq=False)
class Var:
    """An unknown choice among ``size`` positions. Bound once a finer description is known."""

    size: int
    events: dict[Event, None] = field(default_factory=dict)
    bind: "Term | None" = None
    id: int = field(default_factory=lambda: next(_ids))

    def __repr__(self) -> str:
        return f"v{self.id}:{self.size}"


@dataclass(frozen=True)
class Prod:
    """Row-major product of terms, outermost first. The empty product is one fixed position."""

    parts: tuple["Term", ...] = ()

    def __repr__(self) -> str:
        return "(" + "*".join(map(repr, self.parts)) + ")" if self.parts else "1"


@dataclass(frozen=True)
class Sum:
    """Concatenation of terms. The empty sum has no position at all."""

    parts: tuple["Term", ...] = ()

    def __repr__(self) -> str:
        return "[" + "+".join(map(repr, self.parts)) + "]"


Term = Var | Prod | Sum
ONE = Prod()


class RadixError(Exception):
    """Two factorisations of one dimension cannot both hold."""


def size(term: Term) -> int:
    """Number of positions of ``term`` in the dense model."""
    if isinstance(term, Var):
        return term.size
    sizes = [size(part) for part in term.parts]
    return prod(sizes) if isinstance(term, Prod) else sum(sizes)


def fresh(n: int, *events: Event) -> Term:
    """A new variable of ``n`` positions (``ONE`` when there is nothing to choose)."""
    return ONE if n == 1 else Var(n, dict.fromkeys(events))


def fixed(n: int) -> Term:
    """A word of ``n`` single positions: none of them can ever be removed."""
    return norm(Sum((ONE,) * n))


def norm(term: Term) -> Term:
    """Normal form: binds followed, nesting flattened, a leading sum distributed.

    ``Prod[Sum[a, b], r]`` becomes ``Sum[Prod[a, r], Prod[b, r]]``, which has the same positions in
    the same order. A sum that is not the leading factor interleaves and has to stay.
    """
    if isinstance(term, Var):
        if term.size == 1:
            return ONE
        if term.bind is None:
            return term
        term.bind = norm(term.bind)  # path compression
        return term.bind
    parts: list[Term] = []
    if isinstance(term, Sum):
        for part in map(norm, term.parts):
            if isinstance(part, Sum):
                parts.extend(part.parts)
            elif size(part):
                parts.append(part)
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))
    for part in map(norm, term.parts):
        parts.extend(part.parts if isinstance(part, Prod) else (part,))
    if len(parts) == 1:
        return parts[0]
    if parts and isinstance(parts[0], Sum):
        return norm(Sum(tuple(Prod((part, *parts[1:])) for part in parts[0].parts)))
    return Prod(tuple(parts))


def leaves(term: Term) -> Iterator[Var]:
    """The unbound variables of ``term``, each once, in order of appearance."""
    seen: set[int] = set()
    stack: list[Term] = [norm(term)]
    while stack:
        part = stack.pop()
        if isinstance(part, Var):
            if part.id not in seen:
                seen.add(part.id)
                yield part
        else:
            stack.extend(reversed(part.parts))


def mark(term: Term, event: Event) -> None:
    """Record ``event`` on every variable of ``term``."""
    for leaf in leaves(term):
        leaf.events[event] = None


def block(term: Term, site: Site, reason: str) -> None:
    """Declare that no variable of ``term`` may be cut, and why."""
    mark(term, Event("blocked", site, reason))


def is_blocked(term: Term) -> bool:
    """Whether nothing in ``term`` can be cut (true for a fixed position)."""
    return all(any(e.kind == "blocked" for e in leaf.events) for leaf in leaves(term))


def _bind(var: Var, term: Term) -> None:
    """Describe ``var`` by ``term``; what is known of it holds for all the variables inside."""
    var.bind = term
    for leaf in leaves(term):
        leaf.events.update(var.events)


def split_prod(term: Term, outer: int, site: Site) -> tuple[Term, Term]:
    """Factor ``term`` as ``(outer, inner)`` in row-major order.

    Raises:
        RadixError: when the factors already known cannot be regrouped that way.
    """
    term = norm(term)
    n = size(term)
    if outer < 1 or n % outer:
        raise RadixError(f"{n} positions do not split into {outer} equal parts")
    if outer == 1:
        return ONE, term
    if outer == n:
        return term, ONE
    if isinstance(term, Var):
        factors = Var(outer), Var(n // outer)
        _bind(term, Prod(factors))
        return factors
    if isinstance(term, Sum):
        return _split_sum_evenly(term, n // outer, site)
    taken: list[Term] = []
    for i, part in enumerate(term.parts):
        m = size(part)
        if outer % m == 0:
            taken.append(part)
            outer //= m
        elif m % outer == 0:
            head, tail = split_prod(part, outer, site)
            return norm(Prod((*taken, head))), norm(Prod((tail, *term.parts[i + 1 :])))
        else:
            raise RadixError(f"radix {m} does not fit radix {outer}")
        if outer == 1:
            return norm(Prod(tuple(taken))), norm(Prod(term.parts[i + 1 :]))
    raise RadixError(f"radix {outer} left over")  # pragma: no cover - sizes divide, checked above


def _split_sum_evenly(term: Term, inner: int, site: Site) -> tuple[Term, Term]:
    """Factor a concatenation: all its pieces must agree on one inner word."""
    outers: list[Term] = []
    inners: list[Term] = []
    rest: Term = term
    while (left := size(rest)) > 0:
        first = rest.parts[0] if isinstance(rest, Sum) else rest
        if (m := size(first)) % inner == 0:
            rest = norm(Sum(rest.parts[1:])) if isinstance(rest, Sum) else Sum()
            head, tail = split_prod(first, m // inner, site)
        else:
            tail, rest = split_sum(rest, inner, site) if left > inner else (rest, Sum())
            head = ONE
        outers.append(head)
        inners.append(tail)
    for other in inners[1:]:
        unify(inners[0], other, site)
    return norm(Sum(tuple(outers))), norm(inners[0])


def split_sum(term: Term, first: int, site: Site) -> tuple[Term, Term]:
    """Cut ``term`` into its ``first`` leading positions and the rest (either may be empty)."""
    term = norm(term)
    n = size(term)
    if not 0 <= first <= n:
        raise RadixError(f"position {first} lies outside {n} positions")
    if first == 0:
        return Sum(), term
    if first == n:
        return term, Sum()
    if isinstance(term, Var):
        head, tail = fresh(first), fresh(n - first)
        _bind(term, Sum((head, tail)))
        return head, tail
    if isinstance(term, Sum):
        taken: list[Term] = []
        for i, part in enumerate(term.parts):
            m = size(part)
            if m <= first:
                taken.append(part)
                first -= m
            else:
                head, tail = split_sum(part, first, site)
                return norm(Sum((*taken, head))), norm(Sum((tail, *term.parts[i + 1 :])))
            if first == 0:
                return norm(Sum(tuple(taken))), norm(Sum(term.parts[i + 1 :]))
    assert isinstance(term, Prod)
    lead, rest = term.parts[0], norm(Prod(term.parts[1:]))
    r = size(rest)
    whole, part_size = divmod(first, r)
    before, after = split_sum(lead, whole, site)
    if part_size == 0:
        return norm(Prod((before, rest))), norm(Prod((after, rest)))
    # The cut falls inside one position of the leading factor: that position becomes fixed.
    _, after = split_sum(after, 1, site)
    head, tail = split_sum(rest, part_size, site)
    return (
        norm(Sum((Prod((before, rest)), head))),
        norm(Sum((tail, Prod((after, rest))))),
    )


def unify(s: Term, t: Term, site: Site) -> None:
    """Make two terms describe the same positions. What cannot be reconciled is blocked."""
    try:
        _unify(s, t, site)
    except RadixError as error:
        reason = f"the two sides factor differently: {error}"
        block(s, site, reason)
        block(t, site, reason)


def _unify(s: Term, t: Term, site: Site) -> None:
    s, t = norm(s), norm(t)
    if s == t:
        return
    if size(s) != size(t):
        raise RadixError(f"sizes {size(s)} and {size(t)} differ")
    if not isinstance(s, Var) and isinstance(t, Var):
        s, t = t, s
    if isinstance(s, Var):
        if any(leaf is s for leaf in leaves(t)):
            raise RadixError("cyclic factorisation")
        _bind(s, t)
        return
    if isinstance(s, Sum) or isinstance(t, Sum):
        if not isinstance(s, Sum):
            s, t = t, s
        assert isinstance(s, Sum)
        first = s.parts[0]
        if isinstance(t, Sum) and size(t.parts[0]) < size(first):
            s, t = t, s
            assert isinstance(s, Sum)
            first = s.parts[0]
        head, tail = split_sum(t, size(first), site)
        rest = Sum(s.parts[1:])
        _unify(first, head, site)
        _unify(rest, tail, site)
        return
    assert isinstance(s, Prod)
    assert isinstance(t, Prod)
    if size(s.parts[0]) > size(t.parts[0]):
        s, t = t, s
    m, n = size(s.parts[0]), size(t.parts[0])
    if n % m:
        raise RadixError(f"radix {m} does not fit radix {n}")
    head, tail = split_prod(t, m, site)
    _unify(s.parts[0], head, site)
    _unify(Prod(s.parts[1:]), tail, site)


def regroup(terms: Iterable[Term], sizes: Iterable[int], site: Site) -> list[Term]:
    """Deal the row-major word of ``terms`` out over new dimension ``sizes`` (a reshape).

    Raises:
        RadixError: when a boundary falls inside a factor it does not divide.
    """
    rest = norm(Prod(tuple(terms)))
    dealt: list[Term] = []
    for n in sizes:
        head, rest = split_prod(rest, n, site)
        dealt.append(head)
    return [norm(term) for term in dealt]


# What is left after a cut ------------------------------------------------------------------------


def removed(term: Term, gone: Mapping[Var, torch.Tensor]) -> torch.Tensor:
    """Boolean vector over the positions of ``term``: true where a removed unit owns the position.

    ``gone`` maps a variable to a boolean vector over its units, true where removed.
    """
    term = norm(term)
    if isinstance(term, Var):
        return gone[term] if term in gone else torch.zeros(term.size, dtype=torch.bool)
    if isinstance(term, Sum):
        return torch.cat(
            [torch.zeros(0, dtype=torch.bool), *(removed(p, gone) for p in term.parts)]
        )
    mask = torch.zeros(1, dtype=torch.bool)
    for part in term.parts:
        mask = (mask[:, None] | removed(part, gone)[None, :]).reshape(-1)
    return mask


def size_after(term: Term, kept: Mapping[Var, int]) -> int:
    """Number of positions left when ``kept[var]`` units of each mentioned variable remain.

    Survivor sets are balanced, so counts determine sizes: no mask is needed.
    """
    term = norm(term)
    if isinstance(term, Var):
        return kept.get(term, term.size)
    sizes = [size_after(part, kept) for part in term.parts]
    return prod(sizes) if isinstance(term, Prod) else sum(sizes)


def positions(term: Term, var: Var) -> torch.Tensor:
    """Positions of ``term`` that each unit of ``var`` owns: int64 ``[var.size, k]``, ascending.

    Every unit owns the same number ``k`` of positions, because a term treats units alike.
    """
    term = norm(term)
    if isinstance(term, Var):
        if term is var:
            return torch.arange(var.size)[:, None]
        return torch.zeros(var.size, 0, dtype=torch.long)
    if isinstance(term, Sum):
        offset, found = 0, [torch.zeros(var.size, 0, dtype=torch.long)]
        for part in term.parts:
            found.append(positions(part, var) + offset)
            offset += size(part)
        return torch.cat(found, 1)
    carriers = [i for i, part in enumerate(term.parts) if any(v is var for v in leaves(part))]
    if not carriers:
        return torch.zeros(var.size, 0, dtype=torch.long)
    if len(carriers) > 1:  # the variable meets itself: enumerate unit by unit
        units = torch.eye(var.size, dtype=torch.bool)
        return torch.stack([removed(term, {var: unit}).nonzero()[:, 0] for unit in units])
    at = carriers[0]
    outer = size(Prod(term.parts[:at]))
    inner = size(Prod(term.parts[at + 1 :]))
    n = size(term.parts[at])
    own = positions(term.parts[at], var)  # [units, k]
    flat = torch.arange(outer)[:, None, None] * n + own[:, None, :, None]
    flat = flat * inner + torch.arange(inner)
    return flat.reshape(var.size, -1)
