"""Elementwise operators: every dimension that is not broadcast is the same on all sides."""

from probcomp.structure.rules.base import Op, Result, Typed, rule
from probcomp.structure.terms import RadixError, size, split_sum


@rule(
    "to", "_to_copy", "type_as", "clone", "contiguous", "detach", "alias", "lift_fresh_copy",
    "lift_fresh", "float", "double", "half", "bfloat16", "long", "int", "bool", "cpu", "cuda",
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout",
    "resolve_conj", "resolve_neg", "requires_grad", "_conj", "conj", "real", "imag", "view_as_self",
)  # fmt: skip
def identity(op: Op) -> Result:
    """The same values, perhaps in another type; what an integer numbers stays known."""
    name = next(iter(op.instr.arguments))
    typed = Typed(tuple(op.dims(name)), op.points(name))
    return [typed, typed] if isinstance(op.instr.value, (list, tuple)) else typed


@rule("masked_fill", "where", "clamp", "clamp_min", "clamp_max", "clip", "minimum", "maximum")
def selection(op: Op) -> Result:
    """Some values are replaced; those kept number what they numbered before."""
    if isinstance(op.instr.value, (list, tuple)):
        raise RadixError("how many positions a condition holds at depends on the data")
    out = op.join(*(typed.dims for typed in op.tensors()))
    points = [t.points for t in op.tensors() if t.points is not None]
    return Typed(tuple(out), points[0] if len(points) == 1 else None)


@rule("copy", "copy_")
def copy(op: Op) -> Result:
    """Write ``src`` into ``self``, broadcasting."""
    x = op.dims("self")
    op.join(x, op.dims("src"))
    return Typed(tuple(x), op.points("src"))


@rule("eq", "ne")
def compare(op: Op) -> Result:
    """Ids compared with ids would not follow a renumbering."""
    numbered = [t.points for t in op.tensors() if t.points is not None]
    for term in numbered:
        op.block(term, "its numbers are compared with constants")
    return pointwise(op)


@rule("glu")
def glu(op: Op) -> Result:
    x = op.dims("self")
    at = op.axis()
    value, gate = split_sum(x[at], size(x[at]) // 2, op.site)
    op.unify(value, gate)
    x[at] = value
    return x


@rule("prelu", "_prelu_kernel")
def prelu(op: Op) -> Result:
    x, w = op.dims("self"), op.dims("weight")
    if len(w) == 1 and size(w[0]) > 1:
        op.unify(x[1], w[0])
    return x


@rule(
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__",
    "true_divide", "floor_divide", "relu6", "selu", "rrelu", "square", "hardshrink", "softshrink",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "zero", "fill",
    "rsub", "float_power", "absolute", "arccos", "complex", "polar", "celu", "threshold",
    "log_sigmoid", "softsign", "tanhshrink", "isclose", "isfinite", "isinf", "isnan",
    "nan_to_num", "fake_quantize_per_tensor_affine", "special_expm1", "bernoulli", "logical_and",
    "logical_or", "logical_not", "logical_xor", "mish", "hardswish", "hardsigmoid", "hardtanh",
    "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh", "relu", "add", "sub",
    "mul", "div", "subtract", "multiply", "divide", "greater", "less", "greater_equal",
    "less_equal", "not_equal", "lerp", "addcmul", "addcdiv", "xlogy", "exp", "log", "special_xlogy",
)  # fmt: skip
def pointwise(op: Op) -> Result:
    out = op.join(*(typed.dims for typed in op.tensors()))
    if op.instr.op.strip("_") in ("add", "sub", "iadd") and _both_activations(op):
        for term in out:
            op.mark(term, "added")
    return out


def _both_activations(op: Op) -> bool:
    """Whether two streams of the model meet (and not a stream and a bias)."""
    return all(n in op.typing.activations for n in op.instr.inputs) and len(op.instr.inputs) == 2
