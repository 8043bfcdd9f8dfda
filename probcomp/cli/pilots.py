"""What ``probcomp advise`` does with a task: pilots run, foretold, listed, or run from a list."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from probcomp.cli.options import note, print_json, quiet_stdout
from probcomp.errors import InputError

if TYPE_CHECKING:
    from probcomp.regime import Advice


def campaign(
    task: str, *, store: tuple[Path, str | None], **options: Any
) -> "tuple[Advice, dict[str, Any]]":
    """Run pilots and advise; also what was run, for the result.

    The store keeps a table of the runs behind each advice: pilots of other tasks, densities and
    budgets lie in it too, and one advice does not write over what another was drawn from.
    """
    from probcomp.regime.planner import run_campaign
    from probcomp.regime.records import table_name, write_table
    from probcomp.regime.store import Store

    folder, address = store
    done = run_campaign(task, store=Store(folder, address), say=note, **options)
    table = folder / "tables" / table_name(done.records, done.advice.load)
    write_table(done.records, done.advice.knob, table)
    cells = [
        {done.advice.knob: value, "density": where, "dense_seeds": seeds}
        for (value, where), seeds in done.cells.items()
    ]
    return done.advice, {"pilots": cells, "stopped": done.stopped, "runs": str(table)}


def outlook(task: str, folder: Path, optuna: str | None, json: bool, plan: dict[str, Any]) -> None:
    """Say what a campaign would run and cost."""
    with quiet_stdout():
        from probcomp.regime.costs import outlook
        from probcomp.regime.optuna_store import NOWHERE, is_missing
        from probcomp.regime.planner import Planner
        from probcomp.regime.store import Store

        records = NOWHERE if optuna is not None and is_missing(optuna) else optuna
        said = outlook(Planner(task, **plan), Store(folder, records))
    if json:
        return print_json(said)
    for cell in said["first"]:
        seeds = ", ".join(map(str, cell.pop("dense_seeds")))
        typer.echo(", ".join(f"{n} {v:g}" for n, v in cell.items()) + f" (dense seeds {seeds})")
    seconds = f", about {said['seconds']:.0f} s of training left" if "seconds" in said else ""
    typer.echo(
        f"{len(said['first'])} cells first: {said['epochs_of_the_first']:g} epochs of training"
        f"{seconds}; {said['kept']} runs are kept. Of {said['runs']} runs the others follow from "
        f"what these give, at most {said['epochs_of_the_later_at_most']:g} epochs."
    )
    return None


def array(
    task: str | None,
    plan: Path | None,
    line: int | None,
    store: Path,
    optuna: str | None,
    prune: str | None,
    json: bool,
) -> None:
    """Write a task list for a job array, or run one line of it."""
    if plan is None or (task is None) == (line is None):
        raise InputError(
            "--task T --plan FILE writes a task list; --plan FILE --line K runs one of its lines"
        )
    with quiet_stdout():
        from probcomp.regime.store import Store
        from probcomp.regime.sweep import grid_configs, run_line, write_plan

        if line is not None:
            record = run_line(plan, line, Store(store, optuna))
            said = {"pilot": record["key"], "status": record["status"]}
        else:
            configs = grid_configs(str(task), method=rule(prune))
            write_plan(configs, plan)
            said = {"plan": str(plan), "lines": str(len(configs))}
    if json:
        print_json(said)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in said.items()))


def rule(prune: str | None) -> str | None:
    """The address of a pruning rule, if a method of the package was named."""
    from probcomp.regime.pruning import RULES

    if prune is None or prune in RULES or ":" in prune:
        return prune
    from probcomp.errors import unknown
    from probcomp.recipes.methods import METHODS
    from probcomp.recipes.pilot_masks import address

    if prune not in METHODS:
        raise unknown("pruning method", prune, [*RULES, *METHODS])
    return address(prune)
