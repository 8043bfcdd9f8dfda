"""Which pilots to run: a few spread out, then what promises the lowest error for its cost.

That may be a new cell, or one that was run before, with another seed: where few weights are left
runs differ by far more than settings do, and more of them tell more than another setting would.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.advice import Advice, advise, check_options
from probcomp.regime.checks import LEAST_CELLS
from probcomp.regime.costs import Cell, Run, by_cell, run_costs
from probcomp.regime.decision import GAIN
from probcomp.regime.design import STOP_CONFIDENCE
from probcomp.regime.engines import open_engine
from probcomp.regime.pilots import PilotConfig, pilot_configs
from probcomp.regime.records import pilot_columns, pilot_rows
from probcomp.regime.store import Record, Store
from probcomp.regime.surface import ErrorSurface
from probcomp.regime.sweep import default_jobs, run_pilots, stored_pilots
from probcomp.regime.tasks import PilotTask, load_task
from probcomp.regime.worth import worth_most

LIGHT = 300
"""Warm-up steps and draws of the fits that only ask whether to stop early."""

MOST_SEEDS = 6
"""Dense networks of a cell at most."""

STARTING = 2
"""Dense networks of the first cells at the density asked."""


@dataclass(frozen=True)
class Campaign:
    """What a sequence of pilots gave.

    Attributes:
        advice: From all pilots.
        runs: (value of the knob, density, dense seed) in the order in which they were proposed.
        records: One a run.
        stopped: Why no further pilot was run.
    """

    advice: Advice
    runs: tuple[Run, ...]
    records: tuple[Record, ...]
    stopped: str

    @property
    def cells(self) -> dict[Cell, list[int]]:
        """Dense seeds of each cell, in the order in which cells were first proposed."""
        return by_cell(self.runs)


def start_design(task: PilotTask, density: float) -> list[Cell]:
    """Ends and middle of the levels at the density asked, and the corners of the whole grid.

    Levels count on the knob's scale; of the task's densities the nearest stands for ``density``.
    Without the corners the runs span a narrow range of loads, from which the regimes are hard to
    tell: chains then mix badly.
    """
    levels, densities = sorted(set(task.levels)), sorted(set(task.densities))
    if len(levels) * len(densities) < LEAST_CELLS:
        raise InputError(
            f"task {task.name!r} has {len(levels)} levels and {len(densities)} densities: "
            f"{len(levels) * len(densities)} cells; at least {LEAST_CELLS} are needed."
        )
    middle = levels[_nearest_middle(task.turned_knob.coordinate(levels, 0.5))]
    near = sorted(densities, key=lambda other: abs(np.log(other / density)))
    here = [(x, near[0]) for x in (levels[0], levels[-1], middle)]
    corners = [(x, y) for y in (densities[0], densities[-1]) for x in (levels[0], levels[-1])]
    cells = list(dict.fromkeys([*here, *corners]))
    # Two levels only have no middle of their own: any other cell will do.
    rest = [(x, y) for y in near for x in levels if (x, y) not in cells]
    return cells + rest[: max(LEAST_CELLS - len(cells), 0)]


def _without(task: PilotTask, lost: set[float]) -> PilotTask:
    """The task without the levels at which training diverged."""
    levels = tuple(level for level in task.levels if level not in lost)
    if len(set(levels)) < 2:
        raise InputError(
            f"training diverged at {task.knob} {', '.join(f'{v:g}' for v in sorted(lost))}; of the "
            f"levels of task {task.name!r} fewer than two are left. Give it cooler ones."
        )
    return replace(task, levels=levels)


def _nearest_middle(values: np.ndarray) -> int:
    return int(np.argmin(np.abs(values - (values[0] + values[-1]) / 2)))


def nth_seed(task: PilotTask, number: int) -> int:
    """The dense seed of a cell's run ``number`` (from 0): the task's, and then new ones."""
    own = task.dense_seeds
    return own[number] if number < len(own) else max(own) + 1 + number - len(own)


class Planner:
    """Which pilots to run next, for any engine: `propose`, run them, `tell`, and so on.

    The first are the ends and the middle of the levels at the density asked, with two dense seeds,
    and the corners of levels by densities with one. After those each batch holds the runs by which
    the error at the advised level is expected to fall most for their cost
    (`probcomp.regime.worth`), the second chosen as if the first were made: new cells, or further
    dense seeds of those run before. A value of the knob at which half of the trainings or more
    diverged is neither proposed nor advised again.

    Args:
        task: A task, or what `load_task` reads.
        density: Where advice is wanted, within the task's densities.
        pilots: How many may be run, at least 5; one stands for as many runs as the task has dense
            seeds, so that nine pilots of a task with two are 18 runs.
        at: Present value of the knob; by default the coldest level.
        batch: Pilots a round. More keep more workers busy; fewer tell the next more. Which pilots
            are run follows from it, so it does not follow the machine.
        method: The pruning rule; the task's own by default.
        most_seeds: Dense seeds of a cell at most.
        stop_early: Stop when the decision is sure or no pilot promises to settle it; not before as
            many runs as five pilots have.
        say: Told what goes on, one line a round.

    Attributes:
        runs: (value of the knob, density, dense seed) in the order in which they were proposed.
        budget: How many runs there may be.
        records: What was told.
        stopped: Why nothing more is proposed; empty before that.

    Raises:
        InputError: fewer than 5 pilots, or a density or a present value outside the task's.
    """

    def __init__(
        self,
        task: PilotTask | str,
        *,
        density: float,
        pilots: int = 9,
        at: float | None = None,
        batch: int = 1,
        method: str | None = None,
        most_seeds: int = MOST_SEEDS,
        gain: float = GAIN,
        confidence: float = 0.8,
        stop_early: bool = False,
        seed: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        about = load_task(task) if isinstance(task, str) else task
        low, high = min(about.densities), max(about.densities)
        if pilots < LEAST_CELLS:
            raise InputError(f"{pilots} pilots; at least {LEAST_CELLS} are needed, 9 are advised.")
        if batch < 1:
            raise InputError(f"batch is {batch}; a round has at least one pilot.")
        check_options(gain, confidence)
        if not low <= density <= high:
            raise InputError(
                f"density {density:g} lies outside the task's ({low:g} to {high:g}); add it to the "
                "densities of the task, or advise within."
            )
        self.source, self.task, self.density = task, about, density
        self.pilots, self.batch, self.method = pilots, batch, method
        self.gain, self.confidence, self.stop_early = gain, confidence, stop_early
        self.seed, self.say = seed, say
        self.knob, self.levels = about.turned_knob, sorted(set(about.levels))
        coldest = self.levels[int(np.argmin(self.knob.coordinate(self.levels, 0.5)))]
        self.present = coldest if at is None else float(at)
        if not self.levels[0] <= self.present <= self.levels[-1]:
            raise InputError(
                f"{self.knob.name} {self.present:g} lies outside the task's levels "
                f"({self.levels[0]:g} to {self.levels[-1]:g})."
            )
        self.grid = [(x, y) for y in sorted(set(about.densities)) for x in self.levels]
        self.budget = pilots * len(about.dense_seeds)
        self.most_seeds = max(most_seeds, len(about.dense_seeds))
        self.runs: list[Run] = []
        self.records: list[Record] = []
        self.stopped = ""
        self._untold: set[str] = set()

    def propose(self) -> list[PilotConfig]:
        """The next pilots; none when the plan is at its end. All must be told before the next."""
        if self._untold:
            raise InputError(
                f"{len(self._untold)} proposed pilots have not been told; a plan goes on from what "
                "they gave."
            )
        chosen = self._next()
        if not chosen:
            return []
        self.runs.extend(chosen)
        where = "; ".join(
            f"{value:g} at density {part:g} (dense seed {', '.join(map(str, seeds))})"
            for (value, part), seeds in by_cell(chosen).items()
        )
        self.say(f"runs up to {len(self.runs)} of {self.budget}: {self.knob.name} {where}")
        configs = [
            config
            for x, y, one in chosen
            for config in pilot_configs(self.source, x, y, method=self.method, dense_seeds=[one])
        ]
        self._untold = {config.key for config in configs}
        return configs

    def tell(self, records: Iterable[Record]) -> None:
        """Records of pilots that were proposed, as `run_pilot` gives them, in any order."""
        for record in records:
            if record["key"] not in self._untold:
                raise InputError(f"pilot {record['key']} was not proposed, or is told already.")
            self._untold.remove(record["key"])
            self.records.append(record)

    def advice(self, draws: int | None = None) -> Advice:
        """Advice from all that was told; with ``draws`` from a shorter fit."""
        gone = self._lost()
        if draws is None:  # what this plan would run next
            left = self._worth_most(1) if self._open(gone) else []
        else:
            run = by_cell(self.runs)
            left = [
                (*cell, nth_seed(self.task, len(run.get(cell, [])))) for cell in self._open(gone)
            ]
        self.say("fitting the regime model")
        said = advise(
            pilot_columns(self.records, self.knob.name),
            density=self.density,
            knobs=[self.knob],
            at={self.knob.name: self.present},
            levels=[level for level in self.levels if level not in gone],
            gain=self.gain,
            confidence=self.confidence,
            candidates=[(value, density) for value, density, _ in left],
            costs=[run_costs(self.records, self.task, [run])[0] for run in left],
            draws=draws,
            seed=self.seed,
        )
        return self._with_losses(said)

    def take(self, records: Iterable[Record]) -> None:
        """Records of pilots that others ran; they count as runs of this plan, before its own."""
        if self.runs:
            raise InputError("pilots of others are taken before any is proposed.")
        self.records = [*records]
        self.runs = [
            (config["recipe"][self.knob.name], config["density"], config["dense_seed"])
            for config in (record["config"] for record in self.records)
        ]

    def _next(self) -> list[Run]:
        room, seeds = self.budget - len(self.runs), self.task.dense_seeds
        if not self.runs:
            return self._first(start_design(self.task, self.density))[:room]
        short, gone, run = LEAST_CELLS - len(self._ended()), self._lost(), by_cell(self.runs)
        if short > 0 and room > 0:  # some diverged: corners of what is left stand in for them
            start = start_design(_without(self.task, gone), self.density)
            more = [cell for cell in start if cell not in run]
            more = more or [c for c in self.grid if c not in run and c[0] not in gone]
            if more:
                return self._first(more[:short])[:room]
        if room <= 0:
            self.stopped = f"all {self.budget} runs were made"
            return []
        if not self._open(gone):
            self.stopped = f"every cell of the task was run with {self.most_seeds} dense seeds"
            return []
        if self.stop_early and len(self.runs) >= LEAST_CELLS * len(seeds):
            said = self.advice(LIGHT)
            if said.next is None:
                sure = max(said.probability.values()) >= STOP_CONFIDENCE
                self.stopped = (
                    "the decision is sure" if sure else "no further pilot promises to settle it"
                )
                return []
        return self._worth_most(min(self.batch * len(seeds), room))

    def _first(self, cells: list[Cell]) -> list[Run]:
        """First runs of cells: repeated at the density asked, where it must be told how far seeds
        differ, and elsewhere not: what is spent there tells little of the levels here.
        """
        here = min(self.task.densities, key=lambda other: abs(np.log(other / self.density)))
        return [
            (*cell, seed)
            for cell in cells
            for seed in self.task.dense_seeds[: STARTING if cell[1] == here else 1]
        ]

    def _worth_most(self, count: int) -> list[Run]:
        """The runs that promise most for their cost."""
        gone, run = self._lost(), by_cell(self.runs)
        cells = [cell for cell in self.grid if cell[0] not in gone]
        asked = [(value, self.density) for value in self.levels if value not in gone]
        points = list(dict.fromkeys([*cells, *asked]))  # the last may lie between cells
        belief = self._surface(points)

        def then(taken: list[int]) -> list[Run]:
            """The runs that points stand for, made in this order."""
            seeds = [
                len(run.get(points[k], [])) + taken[:number].count(k)
                for number, k in enumerate(taken)
            ]
            return [(*points[k], nth_seed(self.task, seed)) for k, seed in zip(taken, seeds)]

        def cost(taken: list[int]) -> np.ndarray:
            out = np.full(len(points), np.inf)
            for k, cell in enumerate(cells):
                if len(run.get(cell, [])) + taken.count(k) < self.most_seeds:
                    out[k] = run_costs(self.records, self.task, then([*taken, k]))[-1]
            return out

        wanted = np.array([points.index(cell) for cell in asked])
        return then(worth_most(belief.mean, belief.cover, belief.noise, wanted, cost, count))

    def _surface(self, points: list[Cell]) -> ErrorSurface:
        """Belief about ln(error) at cells, from what was told."""
        rows, errors = [], []
        for row in pilot_rows(self.records, self.knob.name):
            cell = (row[self.knob.name], row["density"])
            if cell in points:
                rows.append(points.index(cell))
                errors.append(row["test_error"])
        values, densities = np.array(points).T
        where = np.column_stack([np.log(densities), self.knob.coordinate(values, 0.5)])
        return ErrorSurface.fit(where, np.array(rows), np.array(errors))

    def _open(self, gone: set[float]) -> list[Cell]:
        """Cells that may be run once more."""
        run = by_cell(self.runs)
        return [
            cell
            for cell in self.grid
            if cell[0] not in gone and len(run.get(cell, [])) < self.most_seeds
        ]

    def _ended(self) -> set[Cell]:
        done = [record["config"] for record in self.records if record["status"] == "done"]
        return {(config["recipe"][self.knob.name], config["density"]) for config in done}

    def _lost(self) -> set[float]:
        """Values of the knob at which half of the trainings or more diverged."""
        told: dict[float, list[bool]] = {}
        for record in self.records:
            value = record["config"]["recipe"][self.knob.name]
            told.setdefault(value, []).append(record["status"] != "done")
        return {value for value, lost in told.items() if 2 * sum(lost) >= len(lost)}

    def _with_losses(self, said: Advice) -> Advice:
        """The advice, with a note of what diverged: errors are those of the others."""
        bad = [record["config"] for record in self.records if record["status"] != "done"]
        if not bad:
            return said
        name, gone = self.knob.name, sorted(self._lost())
        runs = [(c["recipe"][name], c["density"], c["dense_seed"]) for c in bad]
        cells = "; ".join(
            f"{name} {value:g} at density {density:g} ({len(seeds)})"
            for (value, density), seeds in by_cell(runs).items()
        )
        note = f"{len(bad)} of {len(self.records)} pilots diverged: {cells}."
        if gone:
            note += f" {name} {', '.join(f'{v:g}' for v in gone)} is not advised: half did or more."
        return replace(said, notes=(*said.notes, note))


def run_campaign(
    task: PilotTask | str,
    *,
    density: float,
    store: Store,
    pilots: int = 9,
    engine: str = "processes",
    jobs: int | None = None,
    show: bool = True,
    **plan: Any,
) -> Campaign:
    """Run the pilots of a `Planner` batch by batch and advise from all of them.

    What the store has is not run again.

    Args:
        task: A task (its pilots run in this process), or what `load_task` reads.
        density: Where advice is wanted, within the task's densities.
        store: Where pilots are kept.
        pilots: See `Planner`; 0 advises from those of the task that the store has (of a job array,
            of other campaigns), and runs none.
        engine, jobs: See `probcomp.regime.sweep.run_pilots`.
        plan: Further options of `Planner`.

    Raises:
        InputError: fewer than 5 pilots, or a density outside the task's.
    """
    own = None if isinstance(task, str) else task
    if pilots == 0:
        planner = Planner(task, density=density, **plan)
        planner.take(stored_pilots(task, store, method=planner.method))
        return Campaign(
            planner.advice(), tuple(planner.runs), tuple(planner.records), "those of the store"
        )
    planner = Planner(task, density=density, pilots=pilots, **plan)
    with nullcontext() if own else open_engine(engine, jobs or default_jobs()) as submit:
        while configs := planner.propose():
            planner.tell(run_pilots(configs, store, task=own, submit=submit, show=show))
    return Campaign(planner.advice(), tuple(planner.runs), tuple(planner.records), planner.stopped)
