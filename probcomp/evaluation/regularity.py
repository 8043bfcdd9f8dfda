"""How regular a mask is: clusters, runs, correlation, code length and block fill.

Two masks with the same number of non-zeros can differ widely in what they cost to store and to
multiply with. Every figure here is a property of the mask alone.
"""

from dataclasses import dataclass

import numpy as np
import torch

from probcomp.errors import InputError

BLOCKS = (4, 16, 32)
"""Sides of the square blocks whose fill is reported; the tile sizes of sparse kernels."""


@dataclass(frozen=True)
class BlockFill:
    """A mask cut into square blocks, those at the border being smaller.

    Attributes:
        side: side of a block.
        blocks: number of blocks.
        occupied: blocks with at least one non-zero; only these are stored and multiplied.
        fill: non-zeros over the weights in occupied blocks, or ``None`` for an empty mask.
    """

    side: int
    blocks: int
    occupied: int
    fill: float | None


@dataclass(frozen=True)
class Regularity:
    """Figures of one mask [rows, cols]; ``None`` where the figure does not exist.

    Attributes:
        size: number of weights.
        nonzero: number of non-zeros.
        clusters: connected components, neighbours up, down, left and right.
        cluster_mean: mean component size in weights.
        cluster_median: median component size.
        singletons: components of one weight.
        run_mean: mean length of a run of non-zeros along a row.
        along_row: correlation of horizontal neighbours, (P11 - p^2) / (p (1 - p)).
        along_column: correlation of vertical neighbours.
        code_bits: adaptive context code length of the mask, see `context_code_bits`.
        independent_bits: N H2(p), the ideal code length if positions were independent.
        index_bits: relative indices as in Deep Compression, see `relative_index_bits`.
        blocks: fill of square blocks.
    """

    size: int
    nonzero: int
    clusters: int
    cluster_mean: float | None
    cluster_median: float | None
    singletons: int
    run_mean: float | None
    along_row: float | None
    along_column: float | None
    code_bits: float
    independent_bits: float
    index_bits: int
    blocks: tuple[BlockFill, ...]


@dataclass(frozen=True)
class LayerRegularity:
    """One layer's mask beside magnitude pruning's at the same number of non-zeros.

    Attributes:
        name: the parameter.
        ours: figures of the mask that was found.
        magnitude: figures of the mask that keeps the largest dense weights, or ``None``.
    """

    name: str
    ours: Regularity
    magnitude: Regularity | None


def as_matrix(mask: torch.Tensor) -> np.ndarray:
    """A boolean matrix [out, everything else] of a mask; convolutions become [o, i*kh*kw]."""
    values = mask.detach().cpu().bool()
    values = values.reshape(1, -1) if values.dim() < 2 else values.flatten(1)
    if values.numel() == 0:
        raise InputError(f"a mask needs at least one weight, got shape {tuple(mask.shape)}")
    return values.numpy()


def measure_regularity(mask: torch.Tensor) -> Regularity:
    """All figures of a mask of any rank, laid out by `as_matrix`."""
    from scipy import ndimage

    kept = as_matrix(mask)
    nonzero = int(kept.sum())
    labels, clusters = ndimage.label(kept)  # its default structure is the 4-neighbourhood
    sizes = np.bincount(labels.ravel())[1:]
    starts = kept & ~_shift(kept, 1)
    runs = int(starts.sum())
    return Regularity(
        size=kept.size,
        nonzero=nonzero,
        clusters=int(clusters),
        cluster_mean=float(sizes.mean()) if clusters else None,
        cluster_median=float(np.median(sizes)) if clusters else None,
        singletons=int((sizes == 1).sum()),
        run_mean=nonzero / runs if runs else None,
        along_row=_correlation(kept, kept[:, :-1] & kept[:, 1:]),
        along_column=_correlation(kept, kept[:-1] & kept[1:]),
        code_bits=context_code_bits(kept),
        independent_bits=kept.size * _entropy(nonzero / kept.size),
        index_bits=min(relative_index_bits(kept, width) for width in (4, 8)),
        blocks=tuple(block_fill(kept, side) for side in BLOCKS),
    )


def compare_with_magnitude(
    name: str, mask: torch.Tensor, weight: torch.Tensor | None
) -> LayerRegularity:
    """Figures of ``mask`` beside those of the largest |weight|, as many as ``mask`` keeps.

    Args:
        name: the parameter.
        mask: what was kept, any shape.
        weight: the dense weights, same shape; ``None`` leaves the comparison out.
    """
    if weight is None:
        return LayerRegularity(name, measure_regularity(mask), None)
    return LayerRegularity(
        name, measure_regularity(mask), measure_regularity(magnitude_mask(weight, mask))
    )


def magnitude_mask(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Keep the largest |weight|, as many as ``like`` keeps; ties go to the earlier position."""
    if weight.shape != like.shape:
        got = f"{tuple(weight.shape)} and {tuple(like.shape)}"
        raise InputError(f"weight and mask must have one shape, got {got}")
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[: int(like.bool().sum())]] = True
    return mask.reshape(weight.shape)


def context_code_bits(kept: np.ndarray) -> float:
    """Code length of a mask under the Krichevsky-Trofimov estimator with three neighbours.

        bits = - sum_t log2 (n_{c,s} + 1/2) / (n_c + 1)

    over positions t in reading order, where c are the left, upper and upper-left neighbours (zero
    outside) and n the counts so far in that context (Krichevsky and Trofimov 1981). An arithmetic
    coder reaches it within two bits. The sum depends on final counts only:
    - log2 B(n1 + 1/2, n0 + 1/2) / B(1/2, 1/2) per context.
    """
    from scipy.special import betaln

    up = np.vstack((np.zeros((1, kept.shape[1]), bool), kept[:-1]))
    context = _shift(kept, 1) + 2 * up + 4 * _shift(up, 1)
    ones = np.bincount(context[kept], minlength=8)
    zeros = np.bincount(context[~kept], minlength=8)
    nats = betaln(0.5, 0.5) - betaln(ones + 0.5, zeros + 0.5)
    return float(nats.sum() / np.log(2))


def relative_index_bits(kept: np.ndarray, width: int) -> int:
    """Bits of the positions as distances from the previous non-zero, ``width`` bits each.

    A distance above 2^width is bridged by filler entries (Han, Mao, Dally 2016, section 2). Only
    indices are counted; each filler would also store a zero value.
    """
    positions = np.flatnonzero(kept)
    zeros_before = np.diff(positions, prepend=-1) - 1
    return int(width * (len(positions) + (zeros_before // 2**width).sum()))


def block_fill(kept: np.ndarray, side: int) -> BlockFill:
    """Occupied blocks of ``side`` x ``side`` and how full they are."""
    rows, cols = (np.arange(0, length, side) for length in kept.shape)
    count = np.add.reduceat(np.add.reduceat(kept.astype(np.int64), rows, 0), cols, 1)
    height, width = (
        np.minimum(side, length - start) for start, length in zip((rows, cols), kept.shape)
    )
    occupied = count > 0
    area = int((height[:, None] * width[None, :])[occupied].sum())
    fill = int(count.sum()) / area if area else None
    return BlockFill(side, count.size, int(occupied.sum()), fill)


def _shift(kept: np.ndarray, by: int) -> np.ndarray:
    """The left neighbour of every position, zero at the border."""
    moved = np.zeros_like(kept)
    moved[:, by:] = kept[:, :-by]
    return moved


def _correlation(kept: np.ndarray, both: np.ndarray) -> float | None:
    share = kept.mean()
    if both.size == 0 or share in (0.0, 1.0):
        return None
    return float((both.mean() - share**2) / (share * (1 - share)))


def _entropy(share: float) -> float:
    """H2 in bits."""
    if share in (0.0, 1.0):
        return 0.0
    return float(-share * np.log2(share) - (1 - share) * np.log2(1 - share))
