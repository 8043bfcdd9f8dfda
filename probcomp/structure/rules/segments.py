"""Concatenation and its inverses: dimensions made of segments."""

from torch import fx

from probcomp.structure.rules.base import Op, Result, Typed, rule
from probcomp.structure.terms import (
    RadixError,
    Sum,
    Term,
    fixed,
    is_blocked,
    norm,
    size,
    split_prod,
    split_sum,
)

# A dimension read position by position has at most this many named positions; a longer one is
# blocked instead, which comes to the same but does not make a term of thousands of parts.
MAX_FIXED = 64


@rule("cat", "concat", "concatenate")
def cat(op: Op) -> Result:
    words = [list(typed.dims) for typed in map(op.typed, op["tensors"]) if typed is not None]
    rank = max(map(len, words))
    words = [word for word in words if len(word) == rank]  # the legacy empty tensor has rank 1
    at = op.integer(op["dim"]) % rank
    out = list(words[0])
    for word in words[1:]:
        for i, term in enumerate(word):
            if i != at:
                op.unify(out[i], term)
    out[at] = norm(Sum(tuple(word[at] for word in words)))
    return out


@rule("stack")
def stack(op: Op) -> Result:
    words = [list(typed.dims) for typed in map(op.typed, op["tensors"]) if typed is not None]
    for word in words[1:]:
        op.same(words[0], word)
    at = op.integer(op["dim"]) % (len(words[0]) + 1)
    return [*words[0][:at], fixed(len(words)), *words[0][at:]]


@rule("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(op: Op) -> Result:
    """Cut at the boundaries the results show; they say more than the arguments do."""
    x = op.dims("self")
    at = op.axis()
    parts: list[Term] = []
    rest = x[at]
    for shape in op.shapes:
        if is_blocked(x[at]):
            parts.append(op.blocked(shape[at], "it is part of a dimension that stays"))
        else:
            head, rest = split_sum(rest, shape[at], op.site)
            parts.append(head)
    for name in ("split_size", "split_sizes", "chunks"):
        if name in op.instr.arguments:
            op.argument(name, parts)
    return [Typed((*x[:at], part, *x[at + 1 :]), op.points("self")) for part in parts]


@rule("slice", "narrow")
def slice_(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    n = size(x[at])
    if is_blocked(x[at]) and op.shape[at] != n:
        x[at] = op.blocked(op.shape[at], "it is part of a dimension that stays")
        return Typed(tuple(x), op.points("self"))
    step = op.number("step", 1)
    start = op.integer(op.get("start") or 0)
    start = max(start + n, 0) if start < 0 else min(start, n)
    if step == 1:
        x[at] = _segment(op, x[at], start, op.shape[at])
    else:
        x[at] = _strided(op, x[at], start, step, op.shape[at])
    return Typed(tuple(x), op.points("self"))


def _segment(op: Op, term: Term, start: int, length: int) -> Term:
    """Positions ``start`` to ``start + length``; says how the bounds follow the sizes."""
    if length == size(term):
        return term
    if any(isinstance(op.get(name), fx.Node) for name in ("start", "end", "length")):
        op.block(term, "it is cut at a place that depends on the inputs")
        return op.blocked(length, "it is cut at a place that depends on the inputs")
    before, rest = split_sum(term, start, op.site)
    taken, _ = split_sum(rest, length, op.site)
    op.argument("start", before)
    if "length" in op.instr.arguments:
        op.argument("length", taken)
    else:
        op.argument("end", norm(Sum((before, taken))))
    return taken


def _strided(op: Op, term: Term, start: int, step: int, length: int) -> Term:
    """Every ``step``-th position: an interleaved layout whose inner positions are fixed."""
    n = size(term)
    if n % step or length != n // step or start >= step:
        raise RadixError(f"a slice of step {step} over {n} positions")
    outer, inner = split_prod(term, n // step, op.site)
    op.unify(inner, fixed(step))
    op.argument("end", norm(term))
    return outer


def _fix(op: Op, term: Term, why: str) -> None:
    """Positions of ``term`` are read one by one: none of them can go."""
    if is_blocked(term):
        return
    if size(term) <= MAX_FIXED:
        op.unify(term, fixed(size(term)))
    else:
        op.block(term, why)


@rule("select")
def select(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    _fix(op, x[at], "single positions of it are selected")
    return Typed((*x[:at], *x[at + 1 :]), op.points("self"))


@rule("unbind")
def unbind(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    _fix(op, x[at], "single positions of it are selected")
    return [Typed((*x[:at], *x[at + 1 :]), op.points("self")) for _ in op.shapes]


@rule("pad", "constant_pad_nd")
def pad(op: Op) -> Result:
    x = op.dims("self")
    amounts = [op.integer(n) for n in op["pad"]]
    constant = op.get("mode", "constant") == "constant"
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i], amounts[2 * i + 1]
        at = len(x) - 1 - i
        if before == after == 0:
            continue
        if not constant or is_blocked(x[at]) or min(before, after) < 0:
            op.block(x[at], "its border is padded")
            x[at] = op.blocked(op.shape[at], "its border is padded")
        else:
            x[at] = norm(Sum((fixed(before), x[at], fixed(after))))
    return x
