"""Products that contract a dimension: linear layers, matrix products, einsum, attention."""

from collections.abc import Sequence

from probcomp.structure.rules.base import Attention, Op, Result, Typed, rule
from probcomp.structure.terms import ONE, Event, Prod, RadixError, Term, fresh, norm, size


@rule("linear")
def linear(op: Op) -> Result:
    x, w = op.dims("input"), op.dims("weight")
    op.unify(x[-1], w[-1])
    out = x[:-1] + w[:-1]
    if op.has("bias"):
        op.join(out, op.dims("bias"))
    return out


@rule("addmm")
def addmm(op: Op) -> Result:
    a, b = op.dims("mat1"), op.dims("mat2")
    op.unify(a[1], b[0])
    return _with_addend(op, [a[0], b[1]])


@rule("addmv")
def addmv(op: Op) -> Result:
    a, b = op.dims("mat"), op.dims("vec")
    op.unify(a[1], b[0])
    return _with_addend(op, [a[0]])


@rule("baddbmm", "addbmm")
def baddbmm(op: Op) -> Result:
    if op.instr.op.startswith("addbmm"):
        raise RadixError("a batch that is summed is not supported")
    return _with_addend(op, _product(op, op.dims("batch1"), op.dims("batch2"), "batch1", "batch2"))


def _with_addend(op: Op, out: list[Term]) -> list[Term]:
    op.join(out, op.dims("self"))
    return out


@rule("matmul", "__matmul__")
def matmul(op: Op) -> Result:
    return _product(op, op.dims("self"), op.dims("other"), "self", "other")


@rule("mm", "bmm")
def mm(op: Op) -> Result:
    return _product(op, op.dims("self"), op.dims("mat2"), "self", "mat2")


@rule("mv")
def mv(op: Op) -> Result:
    return _product(op, op.dims("self"), op.dims("vec"), "self", "vec")


@rule("dot", "vdot", "inner")
def dot(op: Op) -> Result:
    names = list(op.instr.arguments)[:2]
    a, b = (op.dims(name) for name in names)
    op.unify(a[-1], b[-1])
    return a[:-1] + b[:-1]


@rule("outer", "ger")
def outer(op: Op) -> Result:
    return op.dims("self") + op.dims("vec2")


def _product(op: Op, a: list[Term], b: list[Term], left: str, right: str) -> list[Term]:
    """``[..., m, k] @ [..., k, n]`` with the vector cases of ``torch.matmul``."""
    k = b[-1] if len(b) == 1 else b[-2]
    op.unify(a[-1], k)
    batch = op.join(a[:-2], b[:-2])
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else []
    if op.is_activation(left) and op.is_activation(right) and batch:
        op.typing.attention.append(Attention(tuple(batch), (a[-1],), tuple(columns), op.site))
    return batch + rows + columns


@rule("einsum")
def einsum(op: Op) -> Result:
    equation = op["equation"].replace(" ", "")
    words = [op.typed(node) for node in op["tensors"]]
    dims = [list(typed.dims) for typed in words if typed is not None]
    left, _, right = equation.partition("->")
    operands = left.split(",")
    if len(operands) != len(dims):
        raise RadixError("an operand is no tensor")
    ellipsis: list[Term] = []
    of: dict[str, Term] = {}
    for letters, word in zip(operands, dims):
        if "..." in letters:
            head, tail = letters.split("...")
            middle = word[len(head) : len(word) - len(tail)]
            ellipsis = op.join(ellipsis, middle)
            word = word[: len(head)] + word[len(word) - len(tail) :]
            letters = head + tail
        for letter, term in zip(letters, word, strict=True):
            if letter not in of or size(of[letter]) == 1:
                of[letter] = term
            elif size(term) != 1:
                op.unify(of[letter], term)
    if "->" not in equation:
        once = sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    out: list[Term] = []
    head, dots, tail = right.partition("...")
    out = [of[c] for c in head] + (ellipsis if dots else []) + [of[c] for c in tail]
    if len(operands) == 2 and all(node in op.typing.activations for node in op["tensors"]):
        first, second = (set(o) - {"."} for o in operands)
        batch = [of[c] for c in of if c in first & second and c in right]
        contracted = [of[c] for c in of if c in first & second and c not in right]
        value = [of[c] for c in of if c in second - first and c in right]
        if batch or ellipsis:
            op.typing.attention.append(
                Attention((*batch, *ellipsis), tuple(contracted), tuple(value), op.site)
            )
    return out


@rule("scaled_dot_product_attention")
def attention(op: Op) -> Result:
    q, k, v = op.dims("query"), op.dims("key"), op.dims("value")
    op.unify(q[-1], k[-1])
    op.unify(k[-2], v[-2])
    heads = _match_heads(op, q[:-2], op.join(k[:-2], v[:-2]))
    if op.has("attn_mask"):
        op.join(op.dims("attn_mask"), [*heads, q[-2], k[-2]])
    if heads:
        op.typing.attention.append(Attention(tuple(heads), (q[-1],), (v[-1],), op.site))
    return [*heads, q[-2], v[-1]]


def _match_heads(op: Op, q: list[Term], kv: list[Term]) -> list[Term]:
    """Heads of queries and keys; with ``enable_gqa`` each key head serves a group of queries."""
    if not q or not op.get("enable_gqa") or size(q[-1]) == size(kv[-1]):
        return op.join(q, kv)
    if not op.typing.group_heads:
        op.block(kv[-1], "query heads are cut one by one, so their key heads stay")
        op.pick(-3)
        return [*op.join(q[:-1], kv[:-1]), q[-1]]
    groups = fresh(size(q[-1]) // size(kv[-1]), Event("expanded", op.site))
    op.unify(q[-1], Prod((kv[-1], groups)))
    return [*op.join(q[:-1], kv[:-1]), norm(q[-1])]


@rule("_grouped_mm", "grouped_mm", "grouped_mm_fallback")
def grouped_product(op: Op) -> Result:
    """Rows of ``x`` sorted by expert, each multiplied with the matrix of its expert."""
    names = list(op.instr.arguments)
    x, w = op.dims(names[0]), op.dims(names[1])
    offsets = op.typed(op.get("offs"))
    if len(x) != 2 or len(w) != 3 or offsets is None:
        raise RadixError("only rows times a stack of matrices is supported")
    op.unify(x[1], w[1])
    op.unify(w[0], offsets.dims[0])
    op.mark(w[0], "expert")
    return [x[0], w[2]]


@rule("_weight_norm")
def weight_norm(op: Op) -> Result:
    v, g = op.dims("v"), op.dims("g")
    kept = op.integer(op.get("dim", 0)) % len(v)
    op.join(v, g)
    op.typing.never_zero.add((op["v"], norm(v[kept])))  # g / |v| at v = 0 is no number
    return v


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(op: Op) -> Result:
    """Fused recurrent layers: the rows of each weight are the gates, stacked."""
    if "params" not in op.instr.arguments or "input" not in op.instr.arguments:
        raise RadixError("packed sequences are not supported")
    gates = {"lstm": 4, "gru": 3}.get(op.instr.op, 1)
    params = [op.typed(node) for node in op["params"]]
    words = [list(p.dims) for p in params if p is not None]
    ways = 2 if op["bidirectional"] else 1
    per = len(words) // (op["num_layers"] * ways)
    if per != (4 if op["has_biases"] else 2):
        raise RadixError("projections are not supported")
    hx = op["hx"] if isinstance(op["hx"], (list, tuple)) else [op["hx"]]
    states = [typed.dims for typed in map(op.typed, hx) if typed is not None]
    below = op.dims("input")[-1]
    hidden: Term = fresh(size(words[1][1]))  # one state tensor holds all layers: one width
    for layer in range(op["num_layers"]):
        for way in range(ways):
            group = words[(layer * ways + way) * per :][:per]
            op.unify(group[0][1], below)
            op.unify(group[1][1], hidden)
            for word in group:
                op.unify(word[0], _stack([hidden] * gates))
        below = _stack([hidden] * ways)
    for state in states:
        op.unify(state[-1], hidden)
        op.block(state[0], "it numbers recurrent layers")
    out = Typed((*op.dims("input")[:-1], norm(below)))
    return [out, *(Typed(tuple(state)) for state in states)]


def _stack(parts: Sequence[Term]) -> Term:
    from probcomp.structure.terms import Sum

    return norm(Sum(tuple(parts))) if parts else ONE
