"""What pilots cost: seconds, from those already run, and epochs of training before any was."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probcomp.regime.store import Record, Store
from probcomp.regime.tasks import PilotTask

if TYPE_CHECKING:
    from probcomp.regime.planner import Planner

Cell = tuple[float, float]
"""(value of the knob, density)."""

Run = tuple[float, float, int]
"""(value of the knob, density, dense seed): one pilot of one dense network."""


def by_cell(runs: Iterable[Run]) -> dict[Cell, list[int]]:
    """Dense seeds of each cell."""
    out: dict[Cell, list[int]] = {}
    for value, density, seed in runs:
        out.setdefault((value, density), []).append(seed)
    return out


def run_costs(records: Iterable[Record], task: PilotTask, runs: Sequence[Run]) -> list[float]:
    """Seconds that each of further runs would take, made in this order, from those already made.

    Retraining is taken to cost the same everywhere, and an epoch of a dense network too (where the
    knob is a batch size or SAM's radius that is rough); a dense network costs its epochs, less
    those that a checkpoint of the same seed already has (with another knob than epochs: nothing if
    that seed was run at the value before).
    """
    done = [record for record in records if record["status"] == "done"]
    retrain = float(np.mean([sum(run["wall_s"] for run in r["runs"]) for r in done]))
    steps = sum(r["dense"]["steps"] - r["dense"]["continued_from"] for r in done)
    an_epoch = sum(r["dense"]["wall_s"] for r in done) / max(steps, 1)
    an_epoch *= task.recipe.steps(len(task.train[0]), 1.0)
    trained: dict[int, set[float]] = {}
    for config in (record["config"] for record in done):
        value = float(config["recipe"][task.knob])
        trained.setdefault(config["dense_seed"], set()).add(value)
    out = []
    for value, _, seed in runs:
        known = trained.setdefault(seed, set())
        if task.knob == "epochs":
            more = value - max([epochs for epochs in known if epochs <= value], default=0.0)
        else:
            more = 0.0 if value in known else task.recipe.epochs
        out.append(retrain + an_epoch * more)
        known.add(value)
    return out


def outlook(planner: "Planner", store: Store) -> dict[str, Any]:
    """What a campaign will run, as far as that stands before its first run; nothing is run.

    Epochs of training are counted as if nothing were kept; ``kept`` says how many of the first runs
    the store has. Later runs are chosen from what earlier ones give: at most they take the longest
    dense training each, with a network of their own. ``seconds`` of the first runs that the store
    lacks, where it has some.
    """
    configs, task = planner.propose(), planner.task
    found = [record for c in configs if (record := store.pilots.get(c.key)) is not None]
    lacking = [run for run, c in zip(planner.runs, configs) if store.pilots.get(c.key) is None]
    dense: dict[Any, float] = {}
    for value, _, seed in planner.runs:
        turned = task.recipe.turned(task.knob, value)
        one = seed if task.knob == "epochs" else (seed, value)  # one run holds all its stops
        dense[one] = max(dense.get(one, 0.0), turned.epochs)
    longest = max(task.recipe.turned(task.knob, value).epochs for value in planner.levels)
    retrain = len(task.retrain_seeds) * task.retrain.epochs
    later = planner.budget - len(planner.runs)
    out: dict[str, Any] = {
        "task": task.name,
        "runs": planner.budget,
        "first": [
            {planner.knob.name: value, "density": density, "dense_seeds": seeds}
            for (value, density), seeds in by_cell(planner.runs).items()
        ],
        "kept": len(found),
        "epochs_of_the_first": sum(dense.values()) + retrain * len(planner.runs),
        "epochs_of_the_later_at_most": later * (retrain + longest),
    }
    if any(record["status"] == "done" for record in found):
        out["seconds"] = float(sum(run_costs(found, task, lacking)))
    return out
