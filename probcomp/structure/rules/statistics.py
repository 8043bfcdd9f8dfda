"""Reductions, norms and softmax: results that count how many positions there are."""

from collections.abc import Sequence

from probcomp.structure.rules.base import Op, Result, Typed, rule
from probcomp.structure.terms import ONE, Term, split_prod


def _reduced(op: Op) -> tuple[list[Term], list[int], bool]:
    """Input dimensions, the reduced ones, and whether they stay with size 1."""
    name = "self" if "self" in op.instr.arguments else "input"
    x = op.dims(name)
    dim = op.get("dim", op.get("dims"))
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        dims = list(range(len(x)))
    else:
        dims = [d % max(len(x), 1) for d in ([dim] if isinstance(dim, int) else dim)]
    return x, dims if x else [], bool(op.get("keepdim", False))


def _rest(x: Sequence[Term], dims: Sequence[int], keep: bool) -> list[Term]:
    if keep:
        return [ONE if i in dims else term for i, term in enumerate(x)]
    return [term for i, term in enumerate(x) if i not in dims]


@rule("sum", "nansum", "norm", "linalg_vector_norm", "frobenius_norm")
def total(op: Op) -> Result:
    """A zero adds nothing, so a sum (or a Euclidean norm) over units is no obstacle."""
    x, dims, keep = _reduced(op)
    return _rest(x, dims, keep)


@rule(
    "mean", "nanmean", "var", "std", "prod", "logsumexp", "amax", "amin", "argmax", "argmin", "max",
    "min", "all", "any", "count_nonzero", "median",
    "nanmedian", "var_mean", "std_mean", "aminmax", "mode", "kthvalue",
)  # fmt: skip
def statistic(op: Op) -> Result:
    if op.has("other"):  # the elementwise forms max(a, b) and min(a, b)
        return op.join(op.dims("self"), op.dims("other"))
    x, dims, keep = _reduced(op)
    for d in dims:
        op.statistic(x[d], f"{op.instr.op} over it")
    rest = tuple(_rest(x, dims, keep))
    which = x[dims[0]] if len(dims) == 1 else None
    if which is not None and op.instr.op in ("argmax", "argmin", "max", "min"):
        op.mark(which, "selected")
    if isinstance(op.instr.value, (list, tuple)):
        numbered = op.instr.op in ("max", "min", "median", "nanmedian", "mode", "kthvalue")
        return [Typed(rest), Typed(rest, which if numbered else None)]
    return Typed(rest, which if op.instr.op in ("argmax", "argmin") else None)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin", "cumsum", "cumprod",
      "logcumsumexp", "cummax", "cummin")  # fmt: skip
def running(op: Op) -> Result:
    name = "self" if "self" in op.instr.arguments else "input"
    x = op.dims(name)
    if x:
        op.statistic(x[op.axis(of=name)], f"{op.instr.op.strip('_')} over it")
    typed = Typed(tuple(x))
    return [typed, typed] if isinstance(op.instr.value, (list, tuple)) else typed


@rule("layer_norm", "rms_norm")
def layer_norm(op: Op) -> Result:
    x = op.dims("input")
    shape = op["normalized_shape"]
    inner = x[len(x) - len(shape) :]
    for name in ("weight", "bias"):
        if name in op.instr.arguments and op.has(name):
            op.same(inner, op.dims(name))
    for term in inner:
        op.mark(term, "normed")
        op.statistic(term, f"{op.instr.op} over it")
    op.argument("normalized_shape", inner)
    return x


@rule("batch_norm", "instance_norm")
def channel_norm(op: Op) -> Result:
    """Statistics per channel: channels do not mix."""
    x = op.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op.has(name):
            op.unify(x[1], op.dims(name)[0])
    if op.instr.op == "instance_norm":
        for term in x[2:]:
            op.statistic(term, "instance_norm over it")
    return x


@rule("group_norm")
def group_norm(op: Op) -> Result:
    x = op.dims("input")
    group, inner = split_prod(x[1], op.number("num_groups"), op.site)
    for name in ("weight", "bias"):
        if op.has(name):
            op.unify(x[1], op.dims(name)[0])
    op.mark(inner, "normed")
    op.statistic(inner, "group_norm over it")
    for term in x[2:]:
        op.statistic(term, "group_norm over it")
    op.argument("num_groups", group)
    return x


@rule("normalize", "cosine_similarity")
def normalize(op: Op) -> Result:
    names = list(op.instr.arguments)
    x = op.join(*(typed.dims for typed in op.tensors()))
    at = op.integer(op["dim"]) % len(x)
    op.statistic(x[at], f"{op.instr.op} over it")
    return x if names[0] == "input" else [t for i, t in enumerate(x) if i != at]
