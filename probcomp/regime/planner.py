"""Which pilots to run: corners and centre, then one after the other by what they would tell."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.advice import Advice, advise, check_options
from probcomp.regime.checks import LEAST_CELLS
from probcomp.regime.decision import GAIN
from probcomp.regime.engines import held_open
from probcomp.regime.pilots import PilotConfig, pilot_configs
from probcomp.regime.records import pilot_columns
from probcomp.regime.store import Record, Store
from probcomp.regime.sweep import default_jobs, run_pilots
from probcomp.regime.tasks import PilotTask, load_task

Cell = tuple[float, float]
LIGHT = 300
"""Warm-up steps and draws of the fits that only choose the next pilot."""


@dataclass(frozen=True)
class Campaign:
    """What a sequence of pilots gave.

    Attributes:
        advice: From all pilots.
        cells: (value of the knob, density) in the order in which they were run.
        records: One a pilot and dense seed.
        stopped: Why no further pilot was run.
    """

    advice: Advice
    cells: tuple[Cell, ...]
    records: tuple[Record, ...]
    stopped: str


def start_design(task: PilotTask) -> list[Cell]:
    """Four corners and the centre of levels (on the knob's scale) by densities (logarithmic)."""
    levels, densities = sorted(set(task.levels)), sorted(set(task.densities))
    if len(levels) * len(densities) < LEAST_CELLS:
        raise InputError(
            f"task {task.name!r} has {len(levels)} levels and {len(densities)} densities: "
            f"{len(levels) * len(densities)} cells; at least {LEAST_CELLS} are needed."
        )
    middle = levels[_nearest_middle(task.turned_knob.coordinate(levels, 0.5))]
    centre = densities[_nearest_middle(np.log(densities))]
    corners = [(x, y) for y in (densities[0], densities[-1]) for x in (levels[0], levels[-1])]
    cells = list(dict.fromkeys([*corners, (middle, centre)]))
    # Two levels or two densities only have no centre of their own: any other cell will do.
    rest = [(x, y) for y in densities for x in levels if (x, y) not in cells]
    return cells + rest[: LEAST_CELLS - len(cells)]


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


def pilot_costs(records: list[Record], task: PilotTask, cells: list[Cell]) -> list[float]:
    """Seconds that further pilots would take, from those already run.

    Retraining costs the same everywhere; the dense network costs its epochs, less those that a
    checkpoint of the same run already has (with another knob than epochs: nothing if the value
    was run before).
    """
    done = [record for record in records if record["status"] == "done"]
    retrain = np.mean([sum(run["wall_s"] for run in r["runs"]) for r in done])
    trained = {float(r["config"]["recipe"][task.knob]) for r in done}
    steps = sum(r["dense"]["steps"] - r["dense"]["continued_from"] for r in done)
    an_epoch = sum(r["dense"]["wall_s"] for r in done) / max(steps, 1)
    an_epoch *= task.recipe.steps(len(task.train[0]), 1.0)
    out = []
    for value, _ in cells:
        if task.knob == "epochs":
            known = max([e for e in trained if e <= value], default=0.0)
            more = value - known
        else:
            more = 0.0 if value in trained else task.recipe.epochs
        out.append(float(len(task.dense_seeds) * (retrain + an_epoch * more)))
    return out


class Planner:
    """Which pilots to run next, for any engine: `propose`, run them, `tell`, and so on.

    The first are the corners and the centre of levels by densities. After those each batch holds
    the cells that promise most about the decision for their cost (`probcomp.regime.design`), the
    second chosen as if the first had given what is expected of it. Where a training diverges, that
    value of the knob is neither proposed nor advised again.

    Args:
        task: A task, or what `load_task` reads.
        density: Where advice is wanted, within the task's densities.
        pilots: Cells to run, at least 5, each with every dense and retrain seed of the task.
        at: Present value of the knob; by default the coldest level.
        batch: Cells a round; a fit lies between rounds.
        method: The pruning rule; the task's own by default.
        stop_early: Stop when the decision is sure or no pilot promises to settle it.
        say: Told what goes on, one line a round.

    Attributes:
        cells: (value of the knob, density) in the order in which they were proposed.
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
        batch: int = 2,
        method: str | None = None,
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
        self.cells: list[Cell] = []
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
        self.cells.extend(chosen)
        where = ", ".join(f"{value:g} at density {part:g}" for value, part in chosen)
        self.say(f"pilots up to {len(self.cells)} of {self.pilots}: {self.knob.name} {where}")
        configs = [
            c for x, y in chosen for c in pilot_configs(self.source, x, y, method=self.method)
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
        left = [cell for cell in self.grid if cell not in self.cells and cell[0] not in gone]
        self.say("fitting the regime model")
        return advise(
            pilot_columns(self.records, self.knob.name),
            density=self.density,
            knobs=[self.knob],
            at={self.knob.name: self.present},
            levels=[level for level in self.levels if level not in gone],
            gain=self.gain,
            confidence=self.confidence,
            candidates=left,
            costs=pilot_costs(self.records, self.task, left),
            batch=max(1, min(self.batch, self.pilots - len(self.cells))),
            draws=draws,
            seed=self.seed,
        )

    def _next(self) -> list[Cell]:
        room = self.pilots - len(self.cells)
        if not self.cells:
            return start_design(self.task)
        short = LEAST_CELLS - len(self._ended())
        if short > 0 and room > 0:  # some diverged: corners of what is left stand in for them
            gone = self._lost()
            corners = start_design(_without(self.task, gone))
            more = [cell for cell in corners if cell not in self.cells]
            more = more or [c for c in self.grid if c not in self.cells and c[0] not in gone]
            if more:
                return more[: min(short, room)]
        if room <= 0:
            self.stopped = f"all {self.pilots} pilots were run"
            return []
        said = self.advice(LIGHT)
        if not said.next_batch:
            self.stopped = "every cell of the task was run"
            return []
        if self.stop_early and said.next is None:
            self.stopped = "the decision is sure"
            return []
        return [(pilot.settings[self.knob.name], pilot.load) for pilot in said.next_batch]

    def _ended(self) -> set[Cell]:
        done = [record["config"] for record in self.records if record["status"] == "done"]
        return {(config["recipe"][self.knob.name], config["density"]) for config in done}

    def _lost(self) -> set[float]:
        """Values of the knob at which a training diverged."""
        bad = [record["config"] for record in self.records if record["status"] != "done"]
        return {config["recipe"][self.knob.name] for config in bad}


def run_campaign(
    task: PilotTask | str,
    *,
    density: float,
    store: Store,
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
        engine, jobs: See `probcomp.regime.sweep.run_pilots`.
        plan: Further options of `Planner`.

    Raises:
        InputError: fewer than 5 pilots, or a density outside the task's.
    """
    planner = Planner(task, density=density, **plan)
    own = None if isinstance(task, str) else task
    with held_open(engine, jobs or default_jobs()):
        while configs := planner.propose():
            planner.tell(run_pilots(configs, store, engine=engine, jobs=jobs, task=own, show=show))
        return Campaign(
            planner.advice(), tuple(planner.cells), tuple(planner.records), planner.stopped
        )
