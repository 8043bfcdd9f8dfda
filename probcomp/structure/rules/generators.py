"""Tensors made from nothing: their dimensions are free until something meets them."""

from probcomp.structure.rules.base import Op, Result, rule
from probcomp.structure.terms import Event, fresh


@rule(
    "full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty", "rand",
    "randn", "empty_strided", "new_empty_strided", "empty_permuted",
)  # fmt: skip
def constant(op: Op) -> Result:
    """One value everywhere: made in the new size at once."""
    dims = [fresh(n, Event("generated", op.site)) for n in op.shape]
    if "size" in op.instr.arguments and "stride" not in op.instr.arguments:
        op.argument("size", dims)
    else:
        for term in dims:
            op.block(term, "its memory layout is spelled out")
    return dims


@rule("arange", "linspace", "logspace", "range")
def positional(op: Op) -> Result:
    """Values that depend on the position: made in the old size, then the survivors are picked."""
    op.pick(-1)
    return [fresh(n, Event("generated", op.site)) for n in op.shape]


@rule("scalar_tensor", "scalar", "tensor")
def scalar(op: Op) -> Result:
    return []


@rule("eye", "tril_indices", "triu_indices", "randint", "randperm", "hann_window")
def table(op: Op) -> Result:
    return [op.blocked(n, f"{op.instr.op} numbers its positions") for n in op.shape]
