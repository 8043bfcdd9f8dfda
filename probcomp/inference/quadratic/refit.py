r"""Weights of the survivors that make up for what was removed.

.. math:: W'_S = B_S (A_{SS} + \alpha I)^{-1},\qquad W'_{\bar S} = 0

the posterior mean given the mask, with a slab of precision :math:`\alpha`; for :math:`\alpha = 0`
least squares, which is also the compensation of Optimal Brain Surgeon (Hassibi and Stork 1993).
"""

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.likelihood import Quadratic, cholesky


def refit(quadratic: Quadratic, mask: Tensor, *, slab: float = 0.0) -> Tensor:
    """Compensated weights under a mask, ``[do, di]``; exactly zero outside it.

    Args:
        quadratic: The likelihood.
        mask: True where a weight stays: ``[di]`` for whole columns, one factorisation; or
            ``[do, di]``, one for each different row of the mask.
        slab: Precision of the slab, nats per squared weight.

    Raises:
        InputError: A mask that is not boolean or does not fit, or a negative slab.
        DivergenceError: Columns that depend on each other with neither jitter nor slab.
    """
    if mask.dtype != torch.bool or mask.shape not in (
        quadratic.weight.shape,
        quadratic.weight.shape[1:],
    ):
        do, di = quadratic.weight.shape
        raise InputError(
            f"the mask must be boolean of shape ({di},) or ({do}, {di}), got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )
    if not slab >= 0:
        raise InputError(f"slab must be at least 0, got {slab}")
    new = torch.zeros_like(quadratic.weight)
    if mask.dim() == 1:
        new[:, mask] = _solve(quadratic, quadratic.linear, mask, slab)
        return new
    patterns, which = torch.unique(mask, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = (which == number).nonzero().flatten()
        kept = pattern.nonzero().flatten()
        new[rows[:, None], kept] = _solve(quadratic, quadratic.linear[rows], pattern, slab)
    return new


def _solve(quadratic: Quadratic, linear: Tensor, kept: Tensor, slab: float) -> Tensor:
    if not bool(kept.any()):
        return linear[:, kept]
    inner = quadratic.precision[kept][:, kept]
    inner.diagonal().add_(slab)
    return torch.cholesky_solve(linear[:, kept].mT, cholesky(inner)).mT
