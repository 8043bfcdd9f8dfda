"""What the dense model shows in one pass: statistics, gradients of some samples, and targets.

A few samples are kept back from the statistics and the refit, so that removals are tried on samples
that no weights were fitted to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from probcomp.evidence import Matrix, Readout, Statistics, collect_within
from probcomp.evidence.collect import Run, needed_bytes, parts_within
from probcomp.evidence.fisher import Likelihood
from probcomp.evidence.fused import collect_fused, weight_of
from probcomp.evidence.lockstep import Targets
from probcomp.evidence.watch import BiasPlace, watched
from probcomp.recipes.job import Job
from probcomp.recipes.likelihoods import probe_of
from probcomp.recipes.post_config import PostConfig, calibration_batches, parts_of, settled
from probcomp.recipes.post_temper import Meter
from probcomp.recipes.task import Task, Tensors
from probcomp.structure import Routers


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the stages of the recipe read.

    Attributes:
        statistics: What the read-outs saw, by parameter, with Fisher matrices.
        meter: Measures changes by running the model.
        targets: Dense outputs for the walk in step; ``None`` where a memory limit or the settings
            rule that out.
    """

    statistics: Mapping[str, Statistics]
    meter: Meter
    targets: Targets | None


@contextmanager
def dense_evidence(
    job: Job,
    task: Task,
    likelihood: Likelihood | None,
    config: PostConfig,
    matrices: Mapping[str, Matrix],
    places: Mapping[str, BiasPlace | None],
    on_batch: Callable[[], None],
    routers: Routers | None = None,
    fused: Sequence[Readout] = (),
    parts: tuple[Tensors, Tensors] | None = None,
) -> Iterator[Evidence]:
    """Run the dense model.

    Args:
        job: The job.
        task: How it is scored, with the likelihood.
        likelihood: The likelihood behind the loss, where it is known.
        config: The settings.
        matrices: Read-out parameter to how it is read.
        places: Read-out parameter to what takes up its mean error.
        on_batch: Called after each batch.
        routers: Routers of the experts whose removal will be measured.
        fused: Read-outs of experts in one tensor; they take a pass of their own.
        parts: What `parts_of` makes of the job's samples, where that is known.
    """
    config = settled(config, likelihood)
    fitted, tried = parts or parts_of(job.train, config, likelihood)
    kept_back = list(calibration_batches(tried, config.batch_size))
    with ExitStack() as stack:
        with ExitStack() as hooks:  # none of them may be there when the model is copied
            run: Run = task.run
            targets = None
            if config.refit == "sequential" and config.limit is None:
                watching = hooks.enter_context(
                    watched(job.model, matrices, residual=config.residual)
                )
                targets = Targets(matrices, residual=config.residual)
                run = targets.recording(watching, task.run)
            generator = torch.Generator()

            def batches() -> Iterator[Any]:
                generator.manual_seed(job.seed)  # every pass draws the same probes
                return calibration_batches(fitted, config.batch_size, config.every or 1)

            store = stack.enter_context(
                collect_within(
                    job.model,
                    matrices,
                    batches,
                    run,
                    probe=probe_of(task, likelihood, config.probes, generator),
                    every=config.every or 1,
                    thin=config.thin or 1,
                    limit=config.limit,
                    on_batch=on_batch,
                )
            )
        tensors = dict(job.model.named_parameters(remove_duplicate=False))
        reads = {read.parameter: read for read in fused}
        sizes = {
            name: needed_bytes(read.matrix, weight_of(tensors, name), fisher=config.probes > 0)
            for name, read in reads.items()
        }
        for part in parts_within(sizes, config.limit):
            found = collect_fused(
                job.model,
                [reads[name] for name in part],
                batches(),
                task.run,
                probe=probe_of(task, likelihood, config.probes, generator),
                every=config.every or 1,
                thin=config.thin or 1,
            )
            while found:
                store.put(*found.popitem())
        keep_outputs = config.limit is None
        meter = Meter(
            job.model, task, likelihood, kept_back, places, replay=keep_outputs, routers=routers
        )
        on_batch()
        yield Evidence(store, meter, targets)
