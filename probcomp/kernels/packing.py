"""`pack`: from a weight and its support to the format that should run fastest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probcomp.errors import InputError, unknown
from probcomp.kernels.blocks import as_blocks, grid_shape, pack_blocks
from probcomp.kernels.compact import CompactWeight, pack_compact
from probcomp.kernels.int8 import quantise
from probcomp.kernels.nm import detect_nm, pack_nm
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.runs import pack_runs

FORMATS = ("auto", "dense", "compact", "blocks", "runs", "nm", "int8")

# Tall blocks first. A tile product moves (BN + BK') bytes a block for BN BK' products, so the cost
# of a stored value grows as BN shrinks: the factors are the inverse ratios of the reachable rates
# of 128-, 64-, 32- and 16-row blocks at 128 rows of input, tempered by half for small batches.
BLOCKS = ((128, 32), (128, 16), (64, 32), (64, 16), (32, 32), (32, 16), (16, 16))
BLOCK_COST = {128: 1.1, 64: 1.2, 32: 1.5, 16: 2.2}


def pack(
    weight: Tensor,
    support: Tensor,
    *,
    block: tuple[int, int] | str = "auto",
    format: str = "auto",
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
    row_reorder: bool = True,
) -> PackedWeight:
    """Store a masked weight so that what the mask removed costs nothing.

    Args:
        weight: ``[N, K]``, as in ``nn.Linear``.
        support: Boolean, true where a weight lives: ``[N, K]``, or with an explicit ``block`` the
            grid of blocks ``[ceil(N / BN), ceil(K / BK)]``.
        block: ``(BN, BK)`` in outputs and inputs, or ``"auto"``. Tall blocks (BN 64 or 128) reach
            the rate of a dense product at a lower sparsity than square ones.
        format: ``"auto"`` weighs `compact` (dead rows and columns sliced away), `blocks` and
            dense by what each would store; or one of `FORMATS`.
        bias: ``[N]``, added in the product.
        dtype: Store the weight in this floating dtype (bfloat16 halves the bytes).
        row_reorder: For ``"runs"``: reorder rows so that panels share segments.

    Raises:
        InputError: The support does not fit the weight, or the format cannot hold it.
    """
    if format not in FORMATS:
        raise unknown("packed format", format, FORMATS)
    fixed = _check_block(block)
    support = _expand(weight, support, fixed)
    weight = weight.detach() if dtype is None else weight.detach().to(dtype)
    if not weight.is_floating_point():
        raise InputError(f"weight must be floating point, got {weight.dtype}")
    if bias is not None:
        bias = bias.detach().to(weight.dtype)
    if format == "auto":
        format, fixed = _choose(support, fixed)
    if format == "dense":
        folded = torch.where(support, weight, torch.zeros_like(weight))
        n, k = weight.shape
        return CompactWeight(shape=(n, k), bias=bias, live=int(support.sum()), weight=folded)
    if format == "compact":
        return pack_compact(weight, support, bias)
    if format == "runs":
        return pack_runs(weight, support, bias, fixed[0] if fixed else 16, row_reorder)
    if format == "nm":
        pattern = detect_nm(support)
        if pattern is None:
            raise InputError("format='nm': the support obeys none of 1:4, 2:4, 4:8")
        return pack_nm(weight, support, bias, pattern)
    blocks = pack_blocks(weight, support, bias, fixed or best_block(support)[0])
    return quantise(blocks) if format == "int8" else blocks


def best_block(support: Tensor) -> tuple[tuple[int, int], float]:
    """The block shape of `BLOCKS` with the least cost, and that cost relative to dense."""
    costs = {block: _stored(support, block) * BLOCK_COST[block[0]] for block in BLOCKS}
    best = min(costs, key=lambda block: costs[block])
    return best, costs[best]


def _stored(support: Tensor, block: tuple[int, int]) -> float:
    live = as_blocks(support, block).any(-1).any(-1).sum()
    return float(live) * block[0] * block[1] / support.numel()


def _choose(support: Tensor, block: tuple[int, int] | None) -> tuple[str, tuple[int, int] | None]:
    """The cheapest of dense (1), compact (its stored share) and blocks (share times a factor)."""
    compact = float(support.any(1).float().mean() * support.any(0).float().mean())
    if block is None:
        block, blocks = best_block(support)
    else:
        blocks = _stored(support, block) * BLOCK_COST.get(block[0], 1.0)
    if blocks < min(compact, 1.0):
        return "blocks", block
    return ("compact", None) if compact < 1.0 else ("dense", None)


def _check_block(block: tuple[int, int] | str) -> tuple[int, int] | None:
    if block == "auto":
        return None
    pair = isinstance(block, Sequence) and not isinstance(block, str) and len(block) == 2
    if not pair or not all(isinstance(side, int) and side > 0 for side in block):
        raise InputError(f"block must be 'auto' or two positive sizes (BN, BK), got {block!r}")
    return int(block[0]), int(block[1])


def _expand(weight: Tensor, support: Tensor, block: tuple[int, int] | None) -> Tensor:
    for name, given in (("weight", weight), ("support", support)):
        if not isinstance(given, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(given).__name__}")
    if weight.dim() != 2 or 0 in weight.shape:
        raise InputError(f"weight must be a non-empty matrix [N, K], got {list(weight.shape)}")
    if support.dtype != torch.bool:
        raise InputError(
            f"support must be boolean, got {support.dtype}; threshold probabilities first"
        )
    if support.device != weight.device:
        raise InputError(f"support is on {support.device}, the weight on {weight.device}")
    if support.shape == weight.shape:
        return support
    n, k = weight.shape
    if block is not None and tuple(support.shape) == grid_shape((n, k), block):
        return support.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    grid = "" if block is None else f" or the block grid {list(grid_shape((n, k), block))}"
    raise InputError(f"support has shape {list(support.shape)}, expected [{n}, {k}]{grid}")
