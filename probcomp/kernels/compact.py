"""Compact weights: dead rows and columns are sliced away, and the vendor's dense product runs."""

import dataclasses

import torch
from torch import Tensor

from probcomp.kernels.activations import activation_function
from probcomp.kernels.fast_dense import dense_product
from probcomp.kernels.packed import PackedWeight, check_index, require
from probcomp.kernels.ready import Run


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
        rows = self.weight
        if self.in_index is not None:
            rows = rows.new_zeros(rows.shape[0], self.shape[1]).index_copy(1, self.in_index, rows)
        if self.out_index is not None:
            rows = rows.new_zeros(self.shape).index_copy(0, self.out_index, rows)
        return rows

    @property
    def stored(self) -> int:
        return self.weight.numel()

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.weight.dtype


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
    n: int, rows: int, activation: str,
) -> Run:  # fmt: skip
    """The product by a frozen `CompactWeight` as a function of x ``[M, K]``, M up to ``rows``."""
    read = bias if bias is None or out_index is None else bias.index_select(0, out_index)
    inside = activation if out_index is None else "none"
    shape = (weight.shape[0], weight.shape[1])
    product = dense_product(weight, lambda: weight, shape, rows, weight.dtype, read, inside)
    if out_index is None:
        return product if in_index is None else lambda x: product(x.index_select(1, in_index))
    act, index = activation_function(activation), out_index
    # Rows that are dead still output act(bias).
    base = weight.new_zeros(n) if bias is None else bias.detach().clone()

    def run(x: Tensor) -> Tensor:
        y = product(x if in_index is None else x.index_select(1, in_index))
        return act(base.expand(x.shape[0], n).index_copy(1, index, y))

    return run
