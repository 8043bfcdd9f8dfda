"""Compact weights: dead rows and columns are sliced away, and the vendor's dense product runs."""

import dataclasses

import torch
from torch import Tensor

from probcomp.kernels.activations import activation_function
from probcomp.kernels.fast_dense import dense_product
from probcomp.kernels.packed import PackedWeight, check_index, require
from probcomp.kernels.ready import Run

# A gather or scatter costs as much as this many multiplications for each value that it moves, and
# as many in all for its calls. Measured on one thread of a CPU, for 90 odd shapes.
MOVE, CALL = 64, 2**17


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CompactWeight(PackedWeight):
    """Rows ``out_index`` and columns ``in_index`` of a weight, as one dense matrix ``[n, k]``.

    With neither index the weight is stored dense. Where a neuron is removed on both sides, slice
    the pair with `probcomp.kernels.compact_mlp` instead: it needs no gather and no scatter.
    """

    kind = "compact"
    value_name = "weight"

    weight: Tensor
    in_index: Tensor | None = None
    out_index: Tensor | None = None

    def validate(self) -> None:
        n, k = self.weight.shape
        for name, index, stored, limit in (
            ("out_index", self.out_index, n, self.shape[0]),
            ("in_index", self.in_index, k, self.shape[1]),
        ):
            if index is None:
                require(stored == limit, self.kind, f"{name} is missing: {stored} of {limit} kept")
                continue
            require(index.dtype == torch.int64, self.kind, f"{name} must be int64")
            check_index(self.kind, name, index, stored, limit)
            require(bool((index.diff() > 0).all()), self.kind, f"{name} must rise strictly")

    def dense(self) -> Tensor:
        return _whole(self.weight, self.in_index, self.out_index, self.shape)

    @property
    def stored(self) -> int:
        return self.weight.numel()

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.weight.dtype


def _whole(
    weight: Tensor, in_index: Tensor | None, out_index: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    if in_index is not None:
        weight = weight.new_zeros(weight.shape[0], shape[1]).index_copy(1, in_index, weight)
    if out_index is not None:
        weight = weight.new_zeros(shape).index_copy(0, out_index, weight)
    return weight


def pack_compact(weight: Tensor, support: Tensor, bias: Tensor | None) -> CompactWeight:
    """Slice the rows and columns of ``weight`` that have a live entry in ``support``."""
    rows, columns = support.any(1), support.any(0)
    folded = torch.where(support, weight, torch.zeros_like(weight))
    return CompactWeight(
        shape=(weight.shape[0], weight.shape[1]),
        bias=bias,
        live=int(support.sum()),
        weight=folded[rows][:, columns].contiguous(),
        in_index=None if bool(columns.all()) else columns.nonzero().squeeze(1),
        out_index=None if bool(rows.all()) else rows.nonzero().squeeze(1),
    )


def compact_run(
    weight: Tensor, in_index: Tensor | None, out_index: Tensor | None, bias: Tensor | None,
    whole: tuple[int, int], rows: int, activation: str,
) -> Run:  # fmt: skip
    """The product by a frozen `CompactWeight` as a function of x ``[M, K]``, M up to ``rows``.

    Where less is saved than moving inputs and outputs costs, the whole ``(N, K)`` is multiplied by.
    """
    n, dtype = whole[0], weight.dtype
    if not pays_its_moves(weight, in_index, out_index, whole, rows):
        return dense_product(
            weight, lambda: _whole(weight.detach(), in_index, out_index, whole), whole, rows, dtype,
            bias, activation, "whole",
        )  # fmt: skip
    read = bias if bias is None or out_index is None else bias.index_select(0, out_index)
    inside = activation if out_index is None else "none"
    shape = (weight.shape[0], weight.shape[1])
    product = dense_product(weight, lambda: weight, shape, rows, dtype, read, inside)
    if out_index is None:
        return product if in_index is None else lambda x: product(x.index_select(1, in_index))
    act, index = activation_function(activation), out_index
    # Rows that are dead still output act(bias).
    base = weight.new_zeros(n) if bias is None else bias.detach().clone()

    def run(x: Tensor) -> Tensor:
        y = product(x if in_index is None else x.index_select(1, in_index))
        return act(base.expand(x.shape[0], n).index_copy(1, index, y))

    return run


def pays_its_moves(
    weight: Tensor, in_index: Tensor | None, out_index: Tensor | None, whole: tuple[int, int],
    rows: int,
) -> bool:  # fmt: skip
    """Whether slicing saves more multiplications than a gather and a scatter are worth."""
    if in_index is None and out_index is None:
        return True
    saved = whole[0] * whole[1] - weight.numel()
    moved = (0 if in_index is None else weight.shape[1]) + (0 if out_index is None else whole[0])
    return saved >= MOVE * moved and rows * saved >= CALL
