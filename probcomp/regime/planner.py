"""Which pilots to run: corners and centre, then one after the other by what they would tell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.advice import Advice, advise
from probcomp.regime.checks import LEAST_CELLS
from probcomp.regime.decision import GAIN
from probcomp.regime.pilots import pilot_configs
from probcomp.regime.records import pilot_columns
from probcomp.regime.store import Record, Store
from probcomp.regime.sweep import run_pilots
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


def start_design(task: PilotTask, count: int = LEAST_CELLS) -> list[Cell]:
    """Four corners and the centre of levels (on the knob's scale) by densities (logarithmic)."""
    levels = sorted(set(task.levels))
    densities = sorted(set(task.densities))
    heat = task.turned_knob.coordinate(levels, 0.5)
    middle = levels[int(np.argmin(np.abs(heat - heat[[0, -1]].mean())))]
    logs = np.log(densities)
    centre = densities[int(np.argmin(np.abs(logs - logs[[0, -1]].mean())))]
    corners = [(x, y) for y in (densities[0], densities[-1]) for x in (levels[0], levels[-1])]
    cells = list(dict.fromkeys([*corners, (middle, centre)]))
    if len(cells) < LEAST_CELLS:  # two levels or two densities have no centre of their own
        grid = [(x, y) for y in densities for x in levels if (x, y) not in cells]
        cells += grid[: LEAST_CELLS - len(cells)]
    if len(cells) < LEAST_CELLS:
        raise InputError(
            f"task {task.name!r} has {len(levels)} levels and {len(densities)} densities: "
            f"{len(levels) * len(densities)} cells; at least {LEAST_CELLS} are needed."
        )
    return cells[: max(count, LEAST_CELLS)]


def run_campaign(
    task: PilotTask | str,
    *,
    pilots: int = 9,
    density: float,
    at: float | None = None,
    store: Store,
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

    After the corners and the centre each batch holds the cells that promise most about the
    decision for their cost (`probcomp.regime.design`), the second chosen as if the first had
    given what is expected of it. What the store has is not run again.

    Args:
        task: A task, or what `load_task` reads.
        pilots: Cells to run, at least 5, each with every dense and retrain seed of the task.
        density: Where advice is wanted, within the task's densities.
        at: Present value of the knob; by default the coldest level.
        batch: Pilots a round; a fit lies between rounds.
        stop_early: Stop when the decision is sure or no pilot promises to settle it.
        say: Told what goes on, one line a round.

    Raises:
        InputError: fewer than 5 pilots, or a density outside the task's.
    """
    about = load_task(task) if isinstance(task, str) else task
    own = None if isinstance(task, str) else about
    if pilots < LEAST_CELLS:
        raise InputError(f"{pilots} pilots; at least {LEAST_CELLS} are needed, 9 are advised.")
    if not min(about.densities) <= density <= max(about.densities):
        raise InputError(
            f"density {density:g} lies outside the task's ({min(about.densities):g} to "
            f"{max(about.densities):g}); add it to the densities of the task, or advise within."
        )
    knob = about.turned_knob
    heat = knob.coordinate(sorted(about.levels), 0.5)
    present = sorted(about.levels)[int(np.argmin(heat))] if at is None else float(at)
    cells = start_design(about)
    records: list[Record] = []
    grid = [(x, y) for y in sorted(set(about.densities)) for x in sorted(set(about.levels))]

    def run(chosen: list[Cell]) -> None:
        configs = [c for x, y in chosen for c in pilot_configs(task, x, y, method=method)]
        say(f"pilots {len(cells) - len(chosen) + 1} to {len(cells)} of {pilots}: " + _words(chosen))
        options: dict[str, Any] = {"engine": engine, "jobs": jobs, "task": own, "show": show}
        records.extend(run_pilots(configs, store, **options))

    def fit(light: bool) -> Advice:
        columns = pilot_columns(records, about.knob)
        return advise(
            columns, density=density, at={knob.name: present}, knobs=[knob], gain=gain,
            levels=sorted(set(about.levels)), confidence=confidence, seed=seed,
            candidates=[cell for cell in grid if cell not in cells],
            batch=min(batch, pilots - len(cells)), draws=LIGHT if light else None,
        )  # fmt: skip

    run(cells)
    stopped = f"all {pilots} pilots were run"
    while len(cells) < pilots:
        said = fit(light=True)
        if not said.next_batch:
            stopped = "every cell of the task was run"
            if said.next is None and len(cells) < len(grid):
                stopped = "the decision is sure"
            break
        if stop_early and said.next is None:
            stopped = "the decision is sure"
            break
        chosen = [(p.settings[knob.name], p.load) for p in said.next_batch]
        cells += chosen
        run(chosen)
    return Campaign(fit(light=False), tuple(cells), tuple(records), stopped)


def _words(cells: list[Cell]) -> str:
    return ", ".join(f"{value:g} at density {density:g}" for value, density in cells)
