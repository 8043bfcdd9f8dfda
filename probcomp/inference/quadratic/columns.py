"""Cavities of all columns of a layer, at once or in blocks that see each other's means."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.inference.quadratic.likelihood import Quadratic, inverse
from probcomp.inference.quadratic.mixture import Precisions
from probcomp.inference.quadratic.weight_result import WeightState

CAVITY_FLOOR = 1e-9
"""Smallest cavity precision, over the slab's; below it a column's site is left as it is."""

BLOCK_ABOVE = 4096
BLOCK = 2048
"""Layers at least this wide are split into blocks of this many columns, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Cavities:
    """What the data and the other columns say about each weight; rows scaled.

    Attributes:
        precision: ``lambda``, ``[1, di]``.
        linear: ``eta``, ``[do, di]``.
        determined: Columns whose precision is above the floor, ``[di]``.
    """

    precision: Tensor
    linear: Tensor
    determined: Tensor


def blocks(size: int, block: int | None) -> list[slice]:
    """Column ranges of at most ``block`` columns."""
    width = block or (BLOCK if size >= BLOCK_ABOVE else size)
    return [slice(first, min(first + width, size)) for first in range(0, size, width)]


def cavities(
    quadratic: Quadratic,
    base: Tensor,
    state: WeightState,
    precisions: Precisions,
    psi: Tensor,
    parts: list[slice],
) -> Cavities:
    r"""Cavities of every column.

    With several blocks each one sees the residual of the others' posterior means,

    .. math:: B_b \leftarrow B_b - \sum_{b' \ne b} U_{b'} A_{b'b}

    which is brought up to date after each block (Gauss-Seidel). Between blocks the form is that of
    mean-field inference: their covariance is left out.

    Args:
        quadratic: The likelihood.
        base: ``B`` with scaled rows.
        state: Sites, and the means that the blocks start from.
        precisions: Slab and spike.
        psi: Extrinsic log-odds, for the blocks' new means.
        parts: The blocks.
    """
    gram, several = quadratic.precision, len(parts) > 1
    precision, linear = base.new_empty(1, base.shape[1]), torch.empty_like(base)
    determined = torch.empty(base.shape[1], dtype=torch.bool, device=base.device)
    floor = CAVITY_FLOOR * state.slab
    mean = state.mean.clone() if several else state.mean
    residual = base - mean @ gram if several else base
    for part in parts:
        inner, site, nu = gram[part, part], state.site[part], state.linear[:, part]
        own = residual[:, part] + mean[:, part] @ inner if several else base
        covariance = inverse(inner, site)
        sharpness = 1 / covariance.diagonal()
        raw = sharpness - site
        eta = torch.addcmul(-nu, (own + nu) @ covariance, sharpness)
        determined[part], precision[:, part], linear[:, part] = (
            raw > floor,
            raw.clamp_min(floor),
            eta,
        )
        if several:
            cavity = precision[:, part]
            p = torch.sigmoid(psi[:, part] + precisions.evidence(cavity, eta))
            new, _ = precisions.moments(cavity, eta, p)
            residual -= (new - mean[:, part]) @ gram[part]
            mean[:, part] = new
    return Cavities(precision, linear, determined)
