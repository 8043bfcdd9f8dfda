"""Which pilots to run: corners and centre, then one after the other by what they would tell."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.advice import Advice, advise
from probcomp.regime.checks import LEAST_CELLS
from probcomp.regime.decision import GAIN
from probcomp.regime.engines import held_open
from probcomp.regime.pilots import pilot_configs
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


def run_campaign(
    task: PilotTask | str,
    *,
    density: float,
    store: Store,
    pilots: int = 9,
    at: float | None = None,
    engine: str = "processes",
    jobs: int | None = None,
    batch: int = 2,
    method: str | None = None,
    gain: float = GAIN,
    confidence: float = 0.8,
    stop_early: bool = False,
    seed: int = 0,
    show: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Campaign:
    """Run pilots one batch after the other and advise from all of them.

    Where a training diverges, that value of the knob is neither run nor advised again.
    After the corners and the centre each batch holds the cells that promise most about the
    decision for their cost (`probcomp.regime.design`), the second chosen as if the first had
    given what is expected of it. What the store has is not run again.

    Args:
        task: A task (its pilots run in this process), or what `load_task` reads.
        density: Where advice is wanted, within the task's densities.
        store: Where pilots are kept.
        pilots: Cells to run, at least 5, each with every dense and retrain seed of the task.
        at: Present value of the knob; by default the coldest level.
        engine, jobs: See `probcomp.regime.sweep.run_pilots`.
        batch: Pilots a round; a fit lies between rounds.
        stop_early: Stop when the decision is sure or no pilot promises to settle it.
        say: Told what goes on, one line a round.

    Raises:
        InputError: fewer than 5 pilots, or a density outside the task's.
    """
    about = load_task(task) if isinstance(task, str) else task
    low, high = min(about.densities), max(about.densities)
    if pilots < LEAST_CELLS or batch < 1:
        raise InputError(f"{pilots} pilots; at least {LEAST_CELLS} are needed, 9 are advised.")
    if not low <= density <= high:
        raise InputError(
            f"density {density:g} lies outside the task's ({low:g} to {high:g}); add it to the "
            "densities of the task, or advise within."
        )
    knob, levels = about.turned_knob, sorted(set(about.levels))
    present = levels[int(np.argmin(knob.coordinate(levels, 0.5)))] if at is None else float(at)
    grid = [(x, y) for y in sorted(set(about.densities)) for x in levels]
    cells: list[Cell] = []
    records: list[Record] = []

    def run(chosen: list[Cell]) -> None:
        cells.extend(chosen)
        where = ", ".join(f"{value:g} at density {part:g}" for value, part in chosen)
        say(f"pilots up to {len(cells)} of {pilots}: {knob.name} {where}")
        configs = [c for x, y in chosen for c in pilot_configs(task, x, y, method=method)]
        own = None if isinstance(task, str) else about
        records.extend(run_pilots(configs, store, engine=engine, jobs=jobs, task=own, show=show))

    def ended() -> set[Cell]:
        done = [record["config"] for record in records if record["status"] == "done"]
        return {(config["recipe"][knob.name], config["density"]) for config in done}

    def lost() -> set[float]:
        """Values of the knob at which a training diverged: none is run or advised again."""
        bad = [record["config"] for record in records if record["status"] != "done"]
        return {config["recipe"][knob.name] for config in bad}

    def fit(draws: int | None) -> Advice:
        gone = lost()
        left = [cell for cell in grid if cell not in cells and cell[0] not in gone]
        say("fitting the regime model")
        return advise(
            pilot_columns(records, knob.name),
            density=density,
            knobs=[knob],
            at={knob.name: present},
            levels=[level for level in levels if level not in gone],
            gain=gain,
            confidence=confidence,
            candidates=left,
            costs=pilot_costs(records, about, left),
            batch=max(1, min(batch, pilots - len(cells))),
            draws=draws,
            seed=seed,
        )

    with held_open(engine, jobs or default_jobs()):
        run(start_design(about))
        while len(ended()) < LEAST_CELLS and len(cells) < pilots:
            # Some diverged: corners of what is left stand in for them.
            more = [cell for cell in start_design(_without(about, lost())) if cell not in cells]
            more = more or [cell for cell in grid if cell not in cells and cell[0] not in lost()]
            if not more:
                break
            run(more[: min(LEAST_CELLS - len(ended()), pilots - len(cells))])
        stopped = f"all {pilots} pilots were run"
        while len(cells) < pilots:
            said = fit(LIGHT)
            if not said.next_batch:
                stopped = "every cell of the task was run"
                break
            if stop_early and said.next is None:
                stopped = "the decision is sure"
                break
            run([(pilot.settings[knob.name], pilot.load) for pilot in said.next_batch])
        return Campaign(fit(None), tuple(cells), tuple(records), stopped)
