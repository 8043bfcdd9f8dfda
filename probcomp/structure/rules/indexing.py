"""Lookups: which positions are read or written depends on the values of an integer tensor."""

from collections.abc import Sequence
from typing import Any

import torch

from probcomp.structure.rules.base import Minimum, Op, Result, Typed, rule
from probcomp.structure.terms import RadixError, Term, norm, size


def _lookup(op: Op, term: Term, index: Typed | None) -> None:
    """``term`` is indexed: fine when the ids number its own positions, else it must stay."""
    points = index.points if index is not None else None
    if points is not None and size(points) == size(term):
        op.unify(points, term)
        op.mark(term, "indexed")
    else:
        op.block(term, "values that depend on the data select its positions")


@rule("embedding")
def embedding(op: Op) -> Result:
    w, ids = op.dims("weight"), op.typed(op["indices"])
    if ids is None:
        raise RadixError("the indices are no tensor")
    _lookup(op, w[0], ids)
    return [*ids.dims, *w[1:]]


@rule("index", "_unsafe_index", "index_put", "_unsafe_index_put", "_index_put_impl")
def index(op: Op) -> Result:
    """``self[i, :, j]`` with integer tensors, read or written."""
    x = op.dims("self")
    given: list[Any] = list(op["indices"])
    at = [i for i, node in enumerate(given) if node is not None]
    ids = [op.typed(given[i]) for i in at]
    masks = any(given[i].meta["val"].dtype == torch.bool for i in at)
    if masks and "put" not in op.instr.op:
        raise RadixError("a boolean mask selects a number of positions that is not known")
    for i, index in zip(at, ids):
        if masks and index is not None:
            for term in x[i : i + len(index.dims)]:
                op.block(term, "a mask selects its positions")
        else:
            _lookup(op, x[i], index)
    if "put" in op.instr.op:
        if not masks:
            op.join(_indexed(op, x, at, ids), op.dims("values"))
        return x
    return _indexed(op, x, at, ids)


def _indexed(op: Op, x: list[Term], at: list[int], ids: Sequence[Typed | None]) -> list[Term]:
    """Dimensions of ``self[indices]``: the joined index takes their place, or goes first."""
    joined = op.join(*(typed.dims for typed in ids if typed is not None))
    rest = [term for i, term in enumerate(x) if i not in at]
    together = at == list(range(at[0], at[0] + len(at)))
    place = at[0] if together else 0
    return [*rest[:place], *joined, *rest[place:]]


@rule("index_select")
def index_select(op: Op) -> Result:
    x, index = op.dims("self"), op.typed(op["index"])
    at = op.axis()
    _lookup(op, x[at], index)
    x[at] = index.dims[0] if index is not None and index.dims else op.blocked(1, "one position")
    return x


@rule("index_add", "index_copy", "index_fill")
def index_add(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    index = op.typed(op["index"])
    _lookup(op, x[at], index)
    if op.has("source"):
        source = op.dims("source")
        for i, term in enumerate(source):
            op.unify(term, x[i] if i != at or index is None else index.dims[0])
    return x


def _aligned(op: Op, x: list[Term], index: Sequence[Term], at: int) -> None:
    """Unify the dimensions of ``x`` and of its index, apart from the indexed one."""
    for i, (term, other) in enumerate(zip(x, index, strict=True)):
        if i == at:
            continue
        if size(term) == size(other):
            op.unify(term, other)
        else:
            op.block(term, "only its first positions are looked up")


@rule("gather", "take_along_dim")
def gather(op: Op) -> Result:
    name = "index" if "index" in op.instr.arguments else "indices"
    x, index = op.dims("self"), op.typed(op[name])
    if index is None:
        raise RadixError("the index is no tensor")
    at = op.axis()
    _lookup(op, x[at], index)
    _aligned(op, x, index.dims, at)
    return list(index.dims)


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(op: Op) -> Result:
    x, index = op.dims("self"), op.typed(op["index"])
    if index is None:
        raise RadixError("the index is no tensor")
    at = op.axis()
    _lookup(op, x[at], index)
    _aligned(op, x, index.dims, at)
    if op.has("src"):
        op.same(op.dims("src"), index.dims)
    return x


@rule("topk")
def topk(op: Op) -> Result:
    """The best ``k`` of a dimension: a choice among its units, which become experts."""
    x = op.dims("self")
    at = op.axis()
    count = op.number("k")
    op.statistic(x[at], "topk over it")
    op.mark(x[at], "expert")
    op.typing.minima.append(Minimum(norm(x[at]), count, op.site))
    slots = op.blocked(count, "it numbers the choices of a topk")
    out = (*x[:at], slots, *x[at + 1 :])
    return [Typed(out), Typed(out, x[at])]


@rule("sort", "msort")
def sort(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis() if "dim" in op.instr.arguments else 0
    op.block(x[at], "its positions are sorted")
    return [Typed(tuple(x), op.points("self")), Typed(tuple(x), x[at])]


@rule("argsort")
def argsort(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    op.block(x[at], "its positions are sorted")
    return Typed(tuple(x), x[at])


@rule("histc")
def histogram(op: Op) -> Result:
    """Counts per id; the bins are the units themselves."""
    points = op.points("self")
    if points is None or size(points) != op.number("bins"):
        raise RadixError("a histogram whose bins are no known units")
    op.mark(points, "indexed")
    op.argument("bins", points)
    return [norm(points)]


@rule("one_hot")
def one_hot(op: Op) -> Result:
    points = op.points("self")
    if points is None or size(points) != op.shape[-1]:
        return [*op.dims("self"), op.blocked(op.shape[-1], "values of the data number it")]
    op.mark(points, "indexed")
    op.argument("num_classes", points)
    return [*op.dims("self"), norm(points)]
