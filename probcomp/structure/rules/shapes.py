"""Views, permutations and broadcasts: the same numbers under other dimensions."""

from collections.abc import Sequence

from probcomp.structure.rules.base import Op, Result, Typed, rule
from probcomp.structure.terms import (
    ONE,
    Event,
    Prod,
    RadixError,
    Term,
    fixed,
    fresh,
    is_blocked,
    norm,
    regroup,
    size,
)


def _same_order(op: Op, x: Sequence[Term], shape: Sequence[int]) -> list[Term]:
    """Dimensions after a reshape. Runs of equal product are dealt with one by one."""
    out: list[Term] = []
    i = j = 0
    while i < len(x) or j < len(shape):
        taken, sizes = list(x[i : i + 1]), list(shape[j : j + 1])
        i, j = i + 1, j + 1
        m, n = (size(taken[0]) if taken else 1), (sizes[0] if sizes else 1)
        while m != n:
            if m < n and i < len(x):
                taken.append(x[i])
                m, i = m * size(x[i]), i + 1
            elif n < m and j < len(shape):
                sizes.append(shape[j])
                n, j = n * shape[j], j + 1
            else:
                raise RadixError(f"shape {[size(t) for t in x]} is no reshape of {list(shape)}")
        if len(taken) == 1 and len(sizes) == 1:
            out.append(norm(taken[0]))
        elif all(map(is_blocked, taken)):
            out.extend(op.blocked(n, "it is part of a dimension that stays") for n in sizes)
        else:
            out.extend(regroup(taken, sizes, op.site))
    return out


@rule("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "_reshape_alias")
def view(op: Op) -> Result:
    if "dtype" in op.instr.arguments:
        raise RadixError("a view as another type")
    dense = _same_order(op, op.dims("self"), op.shape)
    out = [op.single_heads(i - len(dense), term) for i, term in enumerate(dense)]
    for name in ("size", "shape"):
        if name in op.instr.arguments:
            op.argument(name, dense)
    return Typed(tuple(out), op.points("self"))


@rule("flatten", "squeeze", "unsqueeze", "ravel", "view_copy")
def flatten(op: Op) -> Result:
    out = _same_order(op, op.dims("self"), op.shape)
    return Typed(tuple(out), op.points("self"))


@rule("unflatten")
def unflatten(op: Op) -> Result:
    at = op.axis()
    x = op.dims("self")
    inner = regroup([x[at]], op.shape[at : len(op.shape) - (len(x) - at - 1)], op.site)
    op.argument("sizes", inner)
    return [*x[:at], *inner, *x[at + 1 :]]


@rule("permute")
def permute(op: Op) -> Result:
    x = op.dims("self")
    return Typed(tuple(x[d % len(x)] for d in op["dims"]), op.points("self"))


@rule("transpose", "swapaxes", "swapdims", "transpose_")
def transpose(op: Op) -> Result:
    x = op.dims("self")
    if not x:
        return x
    a, b = (op.integer(v) % len(x) for v in list(op.instr.arguments.values())[1:3])
    x[a], x[b] = x[b], x[a]
    return Typed(tuple(x), op.points("self"))


@rule("t", "numpy_T", "mT", "matrix_H", "mH", "adjoint")
def last_two(op: Op) -> Result:
    x = op.dims("self")
    if op.instr.op == "numpy_T":
        return Typed(tuple(x[::-1]), op.points("self"))
    return Typed((*x[:-2], *x[-2:][::-1]), op.points("self"))


@rule("movedim", "moveaxis")
def movedim(op: Op) -> Result:
    x = op.dims("self")
    source, target = op["source"], op["destination"]
    source = [source] if isinstance(source, int) else source
    target = [target] if isinstance(target, int) else target
    moved = {t % len(x): s % len(x) for s, t in zip(source, target)}
    rest = iter(i for i in range(len(x)) if i not in moved.values())
    return [x[moved[i]] if i in moved else x[next(rest)] for i in range(len(x))]


@rule("expand", "broadcast_to", "expand_copy")
def expand(op: Op) -> Result:
    x = op.dims("self")
    out: list[Term] = []
    for i, n in enumerate(op.shape, len(x) - len(op.shape)):
        if i >= 0 and size(x[i]) == n:
            out.append(x[i])
        else:
            out.append(fresh(n, Event("expanded", op.site)))
    op.argument("size", out)
    return Typed(tuple(out), op.points("self"))


@rule("expand_as")
def expand_as(op: Op) -> Result:
    return Typed(tuple(op.join(op.dims("self"), op.dims("other"))), op.points("self"))


@rule("broadcast_tensors")
def broadcast_tensors(op: Op) -> Result:
    words = [op.typed(node) for node in op["tensors"]]
    out = op.join(*(typed.dims for typed in words if typed is not None))
    return [Typed(tuple(out)) for _ in words]


@rule("repeat", "tile")
def repeat(op: Op) -> Result:
    x = op.dims("self")
    name = "repeats" if "repeats" in op.instr.arguments else "dims"
    times = [op.integer(n) for n in op[name]]
    missing = len(times) - len(x)
    if missing < 0:
        times, missing = [1] * -missing + times, 0
    x = [*[ONE] * missing, *x]
    copies = [fresh(n, Event("expanded", op.site)) for n in times]
    if len(copies) == len(op[name]):
        op.argument(name, copies)
    return [norm(Prod((c, t))) for c, t in zip(copies, x, strict=True)]


@rule("repeat_interleave")
def repeat_interleave(op: Op) -> Result:
    if not isinstance(op.get("repeats"), int):
        raise RadixError("repeats that depend on the data")
    x = op.dims("self")
    if op["dim"] is None:
        x = regroup(x, [size(norm(Prod(tuple(x))))], op.site)
    at = op.integer(op["dim"] or 0) % len(x)
    copies = fresh(op.number("repeats"), Event("expanded", op.site))
    op.argument("repeats", copies)
    x[at] = norm(Prod((x[at], copies)))
    if op.get("output_size") is not None:
        op.argument("output_size", x[at])
    x[at] = op.single_heads(at - len(x), x[at])
    return x


@rule("view_as_complex")
def view_as_complex(op: Op) -> Result:
    x = op.dims("self")
    op.unify(x[-1], fixed(2))
    return x[:-1]


@rule("view_as_real")
def view_as_real(op: Op) -> Result:
    return [*op.dims("self"), fixed(2)]


@rule("roll", "flip", "fliplr", "flipud", "rot90")
def shuffle(op: Op) -> Result:
    x = op.dims("self")
    dims = op.get("dims")
    if dims is None or (not dims and op.instr.op != "flip"):
        dims = range(len(x))
    for d in [dims] if isinstance(dims, int) else dims:
        op.block(x[d], f"{op.instr.op} moves positions along it")
    return x


@rule("tril", "triu")
def triangle(op: Op) -> Result:
    x = op.dims("self")
    for term in x[-2:]:
        op.block(term, "positions along it are compared")
    return x


@rule("diff")
def diff(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    op.block(x[at], "neighbours along it are subtracted")
    x[at] = op.blocked(op.shape[at], "neighbours along it are subtracted")
    return x


@rule("diagonal", "diag_embed")
def diagonal(op: Op) -> Result:
    x = op.dims("self")
    for term in x:
        op.block(term, "positions along it are compared")
    return [op.blocked(n, "positions along it are compared") for n in op.shape]
