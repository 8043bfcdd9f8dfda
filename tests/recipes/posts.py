"""What the stages after training share, on the small trained network."""

from dataclasses import dataclass
from typing import Any

from probcomp.evidence import Readout, Statistics, collect, readouts
from probcomp.evidence.watch import bias_places
from probcomp.recipes.job import Job
from probcomp.recipes.post_allocate import Context
from probcomp.recipes.post_config import PostConfig, calibration_batches
from probcomp.recipes.post_units import Judged, judge
from tests.recipes.jobs import job

UNITS = 300


@dataclass(frozen=True)
class Stage:
    """A job after its units were judged."""

    job: Job
    context: Context
    reads: dict[str, tuple[Readout, ...]]
    seen: dict[str, Statistics]
    judged: dict[str, Judged]
    places: dict[str, Any]

    @property
    def matrices(self) -> dict[str, Any]:
        return {r.parameter: r.matrix for group in self.reads.values() for r in group}


def stage(config: PostConfig, budget: str = "params=0.5") -> Stage:
    given = job(budget, config=config)
    reads = {r.axis: (r,) for r in readouts(given.model, given.structure, given.units)}
    matrices = {r.parameter: r.matrix for group in reads.values() for r in group}
    places = bias_places(
        given.model, matrices, next(calibration_batches(given.train, 2)), given.task.run
    )
    batches = list(calibration_batches(given.train, 50))
    seen = collect(given.model, matrices, batches, given.task.run)
    context = Context(given, config, places)
    judged = {
        axis.name: judge(
            axis, reads[axis.name], context.factors(reads[axis.name], seen), units=UNITS
        )
        for axis in given.units
    }
    return Stage(given, context, reads, seen, judged, places)
