"""Campaigns as ``probcomp advise --task`` runs them, told by the table of a sweep, not by training.

A campaign is for one density. Its planner proposes runs, and each is answered by the row of the
sweep with that level, that density and the dense seed that stands for the campaign's.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probcomp.regime.costs import Run
from probcomp.regime.pilots import PilotConfig
from probcomp.regime.planner import Planner, nth_seed
from probcomp.regime.store import Record
from probcomp.regime.surface import ErrorSurface
from probcomp.regime.tasks import PilotTask

RUN = ("density_realised", "test_error", "train_error", "pruned_test_error", "wall_s")


@dataclass(frozen=True)
class Sweep:
    """Rows of a sweep of a task by (level, density, dense seed)."""

    task: PilotTask
    rows: dict[Run, dict[str, float]]

    @staticmethod
    def read(path: Path, task: PilotTask) -> "Sweep":
        """The table that a sweep has written."""
        with path.open(newline="") as stream:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        keys = [(row[task.knob], row["density"], int(row["dense_seed"])) for row in rows]
        return Sweep(task, dict(zip(keys, rows)))

    def epoch(self) -> float:
        """Seconds of an epoch, of retraining and of dense training alike."""
        wall = np.mean([row["wall_s"] for row in self.rows.values()])
        return float(wall / (len(self.task.retrain_seeds) * self.task.retrain.epochs))

    def record(self, config: PilotConfig, seed: int) -> Record:
        """What a pilot would have given, of the row with a seed in place of its own."""
        row = self.rows[getattr(config.recipe, self.task.knob), config.density, seed]
        pair = {"lmc": row["lmc"], "cka_softmax": row["cka"], "agreement": row["agreement"]}
        steps = config.recipe.steps(len(self.task.train[0]))
        dense = {
            "test_error": row["dense_test_error"], "steps": steps, "continued_from": 0,
            "wall_s": self.epoch() * config.recipe.epochs,
        }  # fmt: skip
        return {
            "key": config.key, "status": "done", "config": config.to_json(), "dense": dense,
            "runs": [{name: row[name] for name in RUN}], "pairs": [pair | {"wall_s": 0.0}],
        }  # fmt: skip

    def seconds(self, rounds: Iterable[Sequence[Run]]) -> float:
        """CPU seconds that rounds of runs take, with the dense networks that they need.

        A dense network goes on from the last checkpoint below; a round trains to all its stops.
        With another knob than epochs each of its values has a network for itself.
        """
        retrain, epochs, known = 0.0, 0.0, dict[int, set[float]]()
        for some in rounds:
            for run in sorted(some):
                stops = known.setdefault(run[2], set())
                retrain += self.rows[run]["wall_s"]
                if self.task.knob == "epochs":
                    epochs += run[0] - max((stop for stop in stops if stop <= run[0]), default=0.0)
                elif run[0] not in stops:
                    epochs += self.task.recipe.epochs
                stops.add(run[0])
        return retrain + self.epoch() * epochs


def campaign(
    sweep: Sweep, source: str, density: float, seeds: Sequence[int], pilots: int = 9
) -> list[list[Run]]:
    """Rounds of a whole campaign of a task, in the sweep's seeds: its first is ``seeds[0]``, ..."""
    stands = {nth_seed(sweep.task, number): seed for number, seed in enumerate(seeds)}
    planner = Planner(source, density=density, pilots=pilots, most_seeds=len(seeds))
    rounds = []
    while configs := planner.propose():
        planner.tell(sweep.record(c, stands[c.dense_seed]) for c in configs)
        new = planner.runs[-len(configs) :]
        rounds.append([(level, load, stands[seed]) for level, load, seed in new])
    return rounds


def nearest(
    levels: NDArray[np.float64], loads: NDArray[np.float64], density: float, seeds: Sequence[int]
) -> list[Run]:
    """Nine cells: every level at a density and the ends at the next one, with each of the seeds."""
    others = loads[loads != density]
    beside = float(others[np.argmin(abs(np.log(others / density)))])
    cells = [(float(v), density) for v in levels]
    cells += [(float(levels[0]), beside), (float(levels[-1]), beside)]
    return [(*cell, seed) for cell in cells for seed in seeds]


def least_measured(
    sweep: Sweep, levels: NDArray[np.float64], density: float, seeds: Sequence[int], runs: int
) -> int:
    """Index of the level of least mean error among ``runs`` at one density, with no model.

    Levels have one run more than others at most; which have more goes by the first seed.
    """
    turn = np.random.default_rng(seeds[0]).permutation(len(levels))
    count = np.full(len(levels), runs // len(levels))
    count[turn[: runs % len(levels)]] += 1
    mean = [
        np.mean([sweep.rows[float(v), density, seed]["test_error"] for seed in seeds[:n]])
        for v, n in zip(levels, count)
    ]
    return int(np.argmin(mean))


def by_process(sweep: Sweep, levels: NDArray[np.float64], density: float, runs: list[Run]) -> int:
    """Index of the level that the process which plans runs would advise: it knows no regimes."""
    grid = [(float(v), load) for load in sweep.task.densities for v in levels]
    values, loads = np.array(grid).T
    where = np.column_stack([np.log(loads), sweep.task.turned_knob.coordinate(values, 0.5)])
    belief = ErrorSurface.fit(
        where,
        np.array([grid.index(run[:2]) for run in runs]),
        np.array([sweep.rows[run]["test_error"] for run in runs]),
    )
    here = np.flatnonzero(loads == density)
    return int(np.argmin(belief.mean[here] + np.diag(belief.cover)[here] / 2))
