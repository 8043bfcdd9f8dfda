"""Refits of a whole model against least squares on its own activations."""

import copy

import pytest
import torch
from torch import nn

from probcomp.evidence.lockstep import Targets
from probcomp.evidence.watch import watched
from probcomp.recipes.post_config import PostConfig, calibration_batches
from probcomp.recipes.post_refit import refit_dense, refit_sequential
from probcomp.recipes.post_units import dense_quadratic, dense_refit, kept_columns
from probcomp.structure import silence
from tests.recipes.posts import Stage, stage

CLOSE = 1e-4  # float32 weights and activations


def half(found: Stage) -> dict[str, torch.Tensor]:
    return {n: j.keep(len(j.order) // 2) for n, j in found.judged.items()}


def test_a_dense_refit_adjusts_each_read_out_by_itself() -> None:
    found = stage(PostConfig(refit="dense"))
    keep = half(found)
    given, model = found.job, silence(found.job.structure, found.job.model, keep)
    refit_dense(given, found.context.config, found.judged, found.seen, keep, model, found.places)
    values = dict(model.named_parameters())
    for name, (read,) in found.reads.items():
        seen = found.seen[read.parameter]
        quadratic = dense_quadratic(given.model, read, seen, damping=None, centred=True)
        columns = kept_columns(read, keep[name], quadratic.size)
        new, gain = dense_refit(quadratic, seen, columns, centred=True)
        torch.testing.assert_close(values[read.parameter], new.float())
        bias = f"{read.module}.bias"
        moved = (values[bias] - dict(silenced_parameters(found, keep))[bias]).double()
        torch.testing.assert_close(moved, gain, rtol=CLOSE, atol=CLOSE)


def silenced_parameters(found: Stage, keep: dict[str, torch.Tensor]):
    return silence(found.job.structure, found.job.model, keep).named_parameters()


def test_a_sequential_refit_sees_what_was_refitted_before() -> None:
    """Its second read-out beats a dense refit of it, on the prefix that it really has."""
    found = stage(PostConfig())
    keep = half(found)
    steps: list[str] = []
    model = silence(found.job.structure, found.job.model, keep)
    refit_sequential(
        found.job, found.context.config, found.judged, keep, model, found.places, steps.append
    )
    assert steps == ["refitting two", "refitting three"]
    x, (dense, pruned) = found.job.train[0], (found.job.model, model)
    with torch.no_grad():
        first = torch.relu(pruned.two(torch.relu(pruned.one(x))))
        wanted = dense(x)

        def error(layer: nn.Linear) -> float:
            return float((layer(first) - wanted).square().sum())

        other = copy.deepcopy(pruned.three)
        read = next(r for (r,) in found.reads.values() if r.parameter == "three.weight")
        quadratic = dense_quadratic(
            dense, read, found.seen["three.weight"], damping=None, centred=True
        )
        columns = kept_columns(read, keep[read.axis], quadratic.size)
        new, gain = dense_refit(quadratic, found.seen["three.weight"], columns, centred=True)
        other.weight.copy_(new)
        other.bias.copy_(dense.three.bias + gain)
        assert error(pruned.three) < error(other)


@pytest.mark.parametrize("residual", [True, False])
def test_in_step_and_one_by_one_agree(residual: bool) -> None:
    found = stage(PostConfig(residual=residual))
    keep, given = half(found), found.job
    results = []
    for step in (False, True):
        targets = None
        if step:
            targets = Targets(found.matrices, residual=residual)
            with (
                watched(given.model, found.matrices, residual=residual) as watching,
                torch.no_grad(),
            ):
                for batch in calibration_batches(given.train, given.config.batch_size):
                    targets.recording(watching, given.task.run)(given.model, batch)
        model = silence(given.structure, given.model, keep)
        refit_sequential(
            given, given.config, found.judged, keep, model, found.places, lambda t: None, targets
        )
        results.append(dict(model.named_parameters()))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=CLOSE, atol=CLOSE)
