"""Where zeros go: does a value vanish, or drop out of a sum, when given parameters are zero?

Zeroing a unit equals removing it when no operator counts the unit (a statistic) and every operator
that sums over it finds a zero there. Both questions are answered on the graph, for all inputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from probcomp.structure.ir import Instr, mutates


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


# f(0) = 0, position by position or over dimensions that do not matter here.
_KEEPS = _words(
    """
    neg abs absolute relu relu6 gelu silu tanh sin asin sinh atan sqrt square erf leaky_relu elu
    selu celu hardswish mish softsign tanhshrink hardshrink softshrink expm1 log1p sign floor
    ceil round trunc prelu _prelu_kernel real imag conj _conj resolve_conj resolve_neg to
    _to_copy type_as clone contiguous detach alias lift_fresh lift_fresh_copy float double half
    bfloat16 dropout feature_dropout alpha_dropout native_dropout view reshape _unsafe_view
    view_as reshape_as flatten squeeze unsqueeze ravel unflatten permute transpose swapaxes
    swapdims t numpy_T mT adjoint movedim moveaxis expand broadcast_to expand_as repeat tile
    repeat_interleave view_as_complex view_as_real roll flip tril triu diff diagonal split chunk
    split_with_sizes tensor_split unsafe_split unsafe_chunk slice narrow select unbind sum
    nansum mean nanmean std var amax amin max min norm linalg_vector_norm frobenius_norm cumsum
    topk sort msort avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d max_pool2d_with_indices upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d im2col unfold pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle nan_to_num glu reflection_pad1d reflection_pad2d replication_pad1d
    replication_pad2d
    """
)
# The first tensor argument decides; the others say where to look or what to divide by.
_FIRST = _words(
    """
    div true_divide divide floor_divide index _unsafe_index gather index_select take_along_dim
    embedding grid_sampler cumsum pow
    """
)
# Zero only when all values that enter are zero.
_ALL = _words(
    """
    add sub subtract rsub where cat concat concatenate stack maximum minimum lerp index_put
    _unsafe_index_put index_add index_copy scatter scatter_add broadcast_tensors
    """
)
_ANY = _words("mul multiply __and__ logical_and bitwise_and")
_MADE = _words("zeros new_zeros zeros_like empty new_empty empty_like")
# Products: (factors, addend) by argument name. They contract; one zero factor is enough.
_PRODUCTS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "linear": (("input", "weight"), "bias"),
    "addmm": (("mat1", "mat2"), "self"),
    "addmv": (("mat", "vec"), "self"),
    "baddbmm": (("batch1", "batch2"), "self"),
    "matmul": (("self", "other"), None),
    "mm": (("self", "mat2"), None),
    "bmm": (("self", "mat2"), None),
    "mv": (("self", "vec"), None),
    "dot": (("self", "tensor"), None),
    "outer": (("self", "vec2"), None),
    "_weight_norm": (("g",), None),
    **{f"conv{n}d": (("input", "weight"), "bias") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (("input", "weight"), "bias") for n in (1, 2, 3)},
    "convolution": (("input", "weight"), "bias"),
}
_GROUPED = _words("_grouped_mm grouped_mm grouped_mm_fallback")
_NORMS = _words("layer_norm rms_norm batch_norm instance_norm group_norm")
# These give a part of the positions: what the part lacks is not lost.
_PARTS = _words("slice narrow split split_with_sizes chunk select unbind")
# These sum: a zero that arrives drops out.
_SUMS = _words("sum nansum norm linalg_vector_norm frobenius_norm")


def plain_name(op: str) -> str:
    """Operator name without the in-place underscore."""
    return op[:-1] if op.endswith("_") and not op.endswith("__") else op


class Zeros:
    """One pass over the program that tracks which tensors vanish on the slices in question.

    Args:
        instrs: the instructions that touch the slices, in order.
        carries: how many dimensions of a node's tensor hold the slices (0: it has none).
        start: nodes (parameters) whose slices are zero.

    Attributes:
        zero: node -> whether its slices are zero.
        unguarded: the first instruction that sums over non-zero slices, or None.
    """

    def __init__(
        self,
        instrs: Iterable[Instr],
        carries: Callable[[fx.Node], int],
        start: Iterable[fx.Node],
    ) -> None:
        self.carries = carries
        self.zero: dict[fx.Node, bool] = dict.fromkeys(start, True)
        self.unguarded: Instr | None = None
        for instr in instrs:
            if instr.kind in ("op", "getitem"):
                self._step(instr)

    def vanishes(self, value: Any) -> bool:
        """Whether an argument value has zero slices (a number: whether it is zero)."""
        if isinstance(value, fx.Node):
            return self.zero.get(value, False)
        return value is not None and value == 0

    def _step(self, instr: Instr) -> None:
        inputs = [n for n in instr.inputs if self.carries(n)]
        out = self.carries(instr.node)
        if not inputs and not out:
            return
        zero = self._transfer(instr)
        self.zero[instr.node] = zero
        if not out and instr.kind == "op" and self.unguarded is None and not self._guarded(instr):
            self.unguarded = instr
        if mutates(instr.node):
            self._write_through(instr, zero)

    def _write_through(self, instr: Instr, zero: bool) -> None:
        """An in-place write also changes every tensor it is a view of."""
        node: Any = next(iter(instr.arguments.values()))
        while isinstance(node, fx.Node) and node.op == "call_function":
            self.zero[node] = self.zero.get(node, False) and zero
            node = node.args[0] if node.args else None

    def _guarded(self, instr: Instr) -> bool:
        """Whether slices that the operator sums over are zero in one of its factors."""
        op = plain_name(instr.op)
        if op in _PRODUCTS:
            names, _ = _PRODUCTS[op]
            return any(self._has_zero(instr.arguments.get(name)) for name in names)
        if op == "einsum" or op in _GROUPED:
            return any(self._has_zero(node) for node in instr.inputs)
        if op == "scaled_dot_product_attention":
            return self._has_zero(instr.arguments["query"]) or self._has_zero(
                instr.arguments["key"]
            )
        if op in _PARTS:
            return True
        if op in _SUMS:
            return all(self._has_zero(n) for n in instr.inputs if self.carries(n))
        return False

    def _has_zero(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and self.carries(value) > 0 and self.vanishes(value)

    def _transfer(self, instr: Instr) -> bool:
        """Whether the result's slices are zero."""
        op, args = plain_name(instr.op), instr.arguments
        if instr.kind == "getitem":
            return self.vanishes(instr.node.args[0])
        tensors = [n for n in instr.inputs if n.meta.get("val") is not None]
        if op in _PRODUCTS:
            names, addend = _PRODUCTS[op]
            return self._product([args.get(n) for n in names], args.get(addend) if addend else None)
        if op == "einsum" or op in _GROUPED:
            return self._product(tensors, None)
        if op == "scaled_dot_product_attention":
            return self._product([args["value"]], None)
        if op in _NORMS:
            return self._norm(op, args)
        if op in ("full", "new_full", "full_like"):
            return args["fill_value"] == 0
        if op in _MADE:
            return True
        if op == "copy":
            return self.vanishes(args["src"])
        if op in ("masked_fill", "fill"):
            return self.vanishes(args["self"]) and self.vanishes(args["value"])
        if op in ("pad", "constant_pad_nd"):
            return self.vanishes(args["self"]) and not args.get("value")
        if op in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"):
            return self._clamped(args)
        if op == "pow":
            exponent = args.get("exponent")
            positive = isinstance(exponent, (int, float)) and exponent > 0
            return positive and self.vanishes(args["self"])
        if op in _ANY:
            return any(self._has_zero(node) for node in tensors)
        if op in _ALL:
            return self._all_zero(op, instr)
        if op in _KEEPS or op in _FIRST:
            first = next(iter(instr.arguments.values()))
            return self._has_zero(first)
        return False

    def _product(self, factors: list[Any], addend: Any) -> bool:
        if addend is not None and not self._has_zero(addend):
            return False
        # A factor that holds the slices twice keeps some of them when another factor is zero.
        twice = any(
            isinstance(f, fx.Node) and self.carries(f) > 1 and not self.vanishes(f) for f in factors
        )
        return not twice and any(self._has_zero(f) for f in factors)

    def _norm(self, op: str, args: Any) -> bool:
        bias = args.get("bias")
        bias_gone = bias is None or self._has_zero(bias)
        if self._has_zero(args.get("weight")):
            return bias_gone
        mean = args.get("running_mean")
        mean_gone = mean is None or self._has_zero(mean)
        return bias_gone and mean_gone and self._has_zero(args["input"])

    def _clamped(self, args: Any) -> bool:
        low, high = args.get("min", args.get("min_val")), args.get("max", args.get("max_val"))
        inside = all(b is None or isinstance(b, (int, float)) for b in (low, high))
        return (
            inside and self.vanishes(args["self"])
            and (low is None or low <= 0) and (high is None or high >= 0)
        )  # fmt: skip

    def _all_zero(self, op: str, instr: Instr) -> bool:
        args = instr.arguments
        if op in ("cat", "concat", "concatenate", "stack"):
            return all(self.vanishes(n) for n in args["tensors"] if self.carries(n))
        ignored = {"condition", "index", "indices", "dim", "alpha", "accumulate", "weight"}
        values = [v for name, v in args.items() if name not in ignored]
        values = [v for v in values if isinstance(v, (fx.Node, int, float)) and v is not True]
        return all(self.vanishes(v) for v in values if not isinstance(v, bool))
