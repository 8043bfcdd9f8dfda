"""Read-outs refitted to what stays: from dense statistics, or in order on the pruned prefix."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.evidence import Readout, Statistics
from probcomp.evidence.fused import parts, weight_of
from probcomp.evidence.lockstep import Targets, walk
from probcomp.evidence.prefix import prefix_moments
from probcomp.evidence.watch import BiasPlace, OutOfStep, call_order
from probcomp.recipes.job import Job
from probcomp.recipes.post_config import PostConfig, calibration_batches
from probcomp.recipes.post_units import Judged, dense_quadratic, dense_refit, kept_columns
from probcomp.recovery.ridge import Moments, fit
from probcomp.structure import Routers


def _columns(
    job: Job, judged: Mapping[str, Judged], keep: Mapping[str, Tensor]
) -> dict[str, tuple[Readout, Tensor]]:
    """Read-out parameter to its read-out and the columns that stay."""
    found: dict[str, tuple[Readout, Tensor]] = {}
    tensors: dict[str, Tensor] = dict(job.model.named_parameters(remove_duplicate=False))
    for name, j in judged.items():
        for read in j.reads:
            size = read.matrix.of(weight_of(tensors, read.parameter)).shape[1]
            columns = kept_columns(read, keep[name], size)
            if read.parameter in found:
                columns &= found[read.parameter][1]
            found[read.parameter] = (read, columns)
    return found


@torch.no_grad()
def _write(
    model: nn.Module,
    read: Readout,
    matrix: Tensor,
    gain: Tensor | None,
    place: BiasPlace | None,
) -> None:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers())
    weight = weight_of(tensors, read.parameter)
    weight.copy_(read.matrix.back(matrix, weight))
    if gain is not None and place is not None:
        bias = tensors[place.name]
        bias.add_(gain.to(bias), alpha=place.sign)
    torch.clear_autocast_cache()  # which may hold the weights of before


def refit_dense(
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    seen: Mapping[str, Statistics],
    keep: Mapping[str, Tensor],
    model: nn.Module,
    places: Mapping[str, BiasPlace | None],
    *,
    fused: bool = False,
) -> None:
    """Read-outs adjusted one by one, from what the dense model shows of each.

    With ``fused`` those of experts alone: on a pruned prefix other tokens are sent to an expert
    than in the dense model, so what it should give out there is not known.
    """
    for name, (read, columns) in _columns(job, judged, keep).items():
        if fused and parts(name)[1] is None:
            continue
        if not bool(columns.all()):
            centred = places[name] is not None
            quadratic = dense_quadratic(
                job.model, read, seen[name], damping=config.damping, centred=centred
            )
            new, gain = dense_refit(quadratic, seen[name], columns, centred=centred)
            _write(model, read, new, gain, places[name])


def refit_sequential(
    job: Job,
    config: PostConfig,
    judged: Mapping[str, Judged],
    keep: Mapping[str, Tensor],
    model: nn.Module,
    places: Mapping[str, BiasPlace | None],
    step: Callable[[str], None],
    targets: Targets | None = None,
    routers: Routers | None = None,
) -> None:
    """Walk the read-outs in the order of the forward pass; each sees the final prefix.

    With recorded targets in one pass of all batches in step; otherwise, and from the point where
    batches get out of step, with a pass of both models for each read-out. Experts that are gone are
    silent in the pruned model.
    """

    def run(which: nn.Module, batch: Any) -> Any:
        if routers is None or which is not model:
            return job.task.run(which, batch)
        with routers.without(model, keep):
            return job.task.run(which, batch)

    columns = {n: c for n, c in _columns(job, judged, keep).items() if parts(n)[1] is None}
    matrices = {name: read.matrix for name, (read, _) in columns.items()}
    settled: set[str] = set()
    ridges: dict[int, float] = {}  # read-outs of one width are much alike

    def settle(name: str, moments: tuple[Moments, Moments]) -> None:
        read, kept = columns[name]
        start = ridges.get(len(kept))
        result = fit(moments, bias=places[name] is not None, start=start)
        ridges[len(kept)] = result.ridge
        present = read.matrix.of(model.get_parameter(name).detach()).double()
        new = torch.zeros_like(present)
        new[:, kept] = present[:, kept] + result.change
        _write(model, read, new, result.bias, places[name])
        settled.add(name)
        step(f"refitting {read.module}")

    if targets is not None:
        with contextlib.suppress(OutOfStep):
            stay = {name: kept for name, (_, kept) in columns.items()}
            used = {p.rpartition(".")[0] for p in routers.all_parameters} if routers else set()
            walk(model, targets, stay, run, settle, skip=config.skip or 0, whole=used)
            return
    example = next(calibration_batches(job.train, 2))
    for name in call_order(job.model, matrices, example, job.task.run):
        read, kept = columns[name]
        if name not in settled and bool(kept.any()):
            batches = calibration_batches(job.train, config.batch_size)
            settle(
                name,
                prefix_moments(
                    job.model,
                    model,
                    read.matrix,
                    kept,
                    batches,
                    run,
                    residual=config.residual,
                    skip=config.skip or 0,
                ),
            )
