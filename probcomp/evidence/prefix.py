r"""Statistics on the pruned prefix: what a read-out should still give out, and what it now sees.

Two models run side by side: the dense one, and the one whose read-outs up to here are already
pruned and refitted. With dense inputs ``x``, present inputs ``x'`` and the columns ``K`` that stay,
the target of the refit is

.. math:: y_t = W x_t - W_K x'_{tK} + (r_t - r'_t)

The last term is there where the output is added to a residual stream: ``r`` is what it is added
to, so that a block also makes up for what earlier blocks left undone; a batch norm in between is
undone (`probcomp.evidence.watch`). Here every read-out takes a pass of both models up to it; where
batches can go in step, `probcomp.evidence.lockstep` needs one pass for all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.evidence.collect import Run, batch_size, evaluating, row_mask
from probcomp.evidence.matrices import Matrix
from probcomp.evidence.products import MomentSums, at_least_single
from probcomp.evidence.thin import gathered
from probcomp.evidence.watch import Arrival, first_arrival
from probcomp.recovery.ridge import Moments


def prefix_moments(
    dense: nn.Module,
    pruned: nn.Module,
    matrix: Matrix,
    kept: Tensor,
    batches: Iterable[Any],
    run: Run,
    *,
    residual: bool = True,
    skip: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[Moments, Moments]:
    """Moments of the kept inputs and the target, for even and for odd samples of the data.

    With a single sample the second half is empty (count 0), and `fit` changes nothing.

    Args:
        dense: The dense model.
        pruned: The same architecture; every read-out before this one is in its final state, and
            this one still has its dense weights.
        matrix: The read-out.
        kept: Columns that stay, boolean [di].
        batches: Calibration batches.
        run: Runs a model on a batch.
        residual: Whether to add what earlier blocks left undone.
        skip: Of every so many neighbouring rows one is left out; 0 for none.
        on_batch: Called after each batch.

    Raises:
        InputError: The read-out's module was never called.
    """
    weight = at_least_single(matrix.of(dense.get_parameter(f"{matrix.module}.weight").detach()))
    stays = kept.nonzero().flatten().to(weight.device)
    live = live_rows(matrix, pruned.get_submodule(matrix.module), kept)
    folds = [MomentSums(int(kept.sum()), len(weight), weight.device) for _ in range(2)]
    offset = 0
    with evaluating(dense), evaluating(pruned), torch.no_grad():
        for batch in batches:
            first = first_arrival(dense, matrix, batch, run, residual=residual)
            second = first_arrival(pruned, matrix, batch, run, residual=residual)
            inputs = gathered(_rows(second, matrix), stays)
            target = F.linear(_rows(first, matrix), weight)
            target = target - F.linear(inputs, weight[:, kept])
            if first.residual is not None and second.residual is not None:
                left = matrix.outputs(first.residual) - matrix.outputs(second.residual)
                target = target + through(left, first.scale)
            add_moments(folds, inputs, target * live, batch, offset, skip, decoder=matrix.decoder)
            offset += batch_size(batch)
            on_batch()
    even, odd = (fold.whole() for fold in folds)
    if not even.count + odd.count:
        raise InputError(f"no rows reached {matrix.module}")
    return even, odd


def live_rows(matrix: Matrix, module: nn.Module, kept: Tensor) -> Tensor:
    """1 for outputs that a pruned read-out still has, 0 for those of removed units, [do]."""
    weight = matrix.of(module.get_parameter("weight").detach())[:, kept]
    return (weight != 0).any(1).to(at_least_single(weight))


def _rows(arrival: Arrival, matrix: Matrix) -> Tensor:
    return at_least_single(matrix.rows(arrival.module, arrival.inputs[0]))


def through(left: Tensor, scale: Tensor | None) -> Tensor:
    """What must come out before a norm's scale; channels that it all but closes are left."""
    if scale is None:
        return left
    usable = scale.abs() > 1e-3 * scale.abs().max()
    return torch.where(usable, left / torch.where(usable, scale, 1.0), 0.0)


def add_moments(
    folds: Sequence[MomentSums],
    inputs: Tensor,
    target: Tensor,
    batch: Any,
    offset: int,
    skip: int = 0,
    *,
    decoder: bool = False,
) -> None:
    """Samples that are even over the whole data to the first half, odd ones to the second.

    In a flat list of positions equal stretches stand for the samples, so that the positions of a
    text stay together. Of every ``skip`` positions one is left out, others in each sample of a
    half; of samples with fewer positions none.
    """
    mask, samples = row_mask(batch, inputs, decoder=decoder), batch_size(batch)
    whole = mask is None or bool(mask.all())
    skips = 0 < skip <= inputs.shape[0] * inputs.shape[1] // max(1, samples)
    if whole and len(inputs) == samples and not skips:
        for fold in (0, 1):
            every = slice((fold - offset) % 2, None, 2)
            folds[fold].add(inputs[every].flatten(0, 1), target[every].flatten(0, 1))
        return
    if mask is None:
        mask = inputs.new_ones(inputs.shape[:2], dtype=torch.bool)
    mask = mask.to(inputs.device)
    rows = torch.arange(mask.numel(), device=inputs.device)
    owner = offset + (rows * samples // max(1, mask.numel())).view(mask.shape)
    if skips:
        mask = mask & ((rows.view(mask.shape) + owner // 2) % skip != 0)
    for fold in (0, 1):
        chosen = (mask & (owner % 2 == fold)).flatten().nonzero().flatten()
        folds[fold].add(*(t.flatten(0, 1).index_select(0, chosen) for t in (inputs, target)))
