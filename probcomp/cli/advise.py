"""``probcomp advise``: from past runs, or from pilots, to raise, lower or keep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probcomp.cli.options import Json, Seed, note, print_json, quiet_stdout, save_json
from probcomp.errors import InputError

if TYPE_CHECKING:
    from probcomp.regime import Advice

UNDECIDED = 3
STORE = Path("probcomp-pilots")


def advise(
    runs: Annotated[
        Path | None,
        typer.Option(
            help="CSV of past runs: a knob (epochs, batch_size, lr, ...), density or width, "
            "test_error, lmc, cka. Nothing is trained.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Run pilots of this task: digits, file.py or file.py:function (a PilotTask).",
            show_default=False,
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Density (or width) to advise at.", show_default=False),
    ] = None,
    knob: Annotated[
        str | None,
        typer.Option(
            help="Knob to turn, as name, name:up or name:down (up: a larger value is hotter).",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(help="Present value of the knob; the coldest by default.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="With --runs: only rows with COLUMN=VALUE; may be repeated."),
    ] = None,
    gain: Annotated[float, typer.Option(help="Least gain worth a move, in points.")] = 0.3,
    confidence: Annotated[float, typer.Option(help="Least probability of an action.")] = 0.8,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 3 if undecided.")] = False,
    pilots: Annotated[
        int, typer.Option(help="Pilots of --task, at least 5, each with every dense seed.")
    ] = 9,
    engine: Annotated[
        str, typer.Option(help="Where pilots run: processes, serial, ray or dask.")
    ] = "processes",
    jobs: Annotated[
        int | None,
        typer.Option(help="Workers of one thread; one a processor by default.", show_default=False),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="Directory of finished pilots; the same command resumes.")
    ] = STORE,
    optuna: Annotated[
        str | None,
        typer.Option(help="Optuna storage for the records: sqlite:///f.db, f.log."),
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(help="uniform, global or a method of the package; the task's by default."),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Run no further pilot once the decision is sure.")
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(help="With --task: write all its pilots here, one a line, and stop."),
    ] = None,
    line: Annotated[
        int | None,
        typer.Option(help="With --plan alone: run this line, as one member of a job array."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --task: say what would be run, and run nothing.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the result: a page with plots (.html), or JSON."),
    ] = None,
) -> None:
    """Say whether to raise, lower or keep the temperature of training before pruning, and how sure
    that is: from runs at hand (--runs), or from pilots it runs itself (--task).
    """
    if line is not None or plan is not None:
        return _array(task, plan, line, store, optuna, prune, json)
    if (runs is None) == (task is None):
        raise InputError(
            "advise needs --runs FILE.csv (past runs, at least five, nine are advised) or --task "
            "NAME (pilots are run), and not both"
        )
    if density is None:
        raise InputError("advise needs --density: the share of weights to keep, such as 0.1")
    name = None if knob is None else knob.partition(":")[0]
    if at is not None and name is None and task is None:
        raise InputError("--at is the value of a knob: name it with --knob")
    if where and task is not None:
        raise InputError("--where chooses rows of --runs; a task has none")
    if knob is not None and task is not None:
        raise InputError("the task names its knob; leave --knob out")
    if dry_run:
        if task is None:
            raise InputError("--dry-run says what --task would run; --runs runs nothing")
        return _outlook(
            task, (store, optuna), json, density=density, pilots=pilots, at=at,
            method=_rule(prune), gain=gain / 100, confidence=confidence,
        )  # fmt: skip
    extra: dict[str, Any] = {}
    with quiet_stdout():
        if task is not None:
            said, extra = _campaign(
                task, pilots=pilots, density=density, at=at, store=(store, optuna),
                engine=engine, jobs=jobs, method=_rule(prune), gain=gain / 100,
                confidence=confidence, stop_early=stop_early, seed=seed,
            )  # fmt: skip
        else:
            from probcomp.regime import advise as run

            note("fitting the regime model; this takes up to a minute")
            said = run(
                runs or "",
                density=density,
                knobs=None if knob is None else [knob],
                at=None if at is None or name is None else {name: at},
                where=_rows(where or []),
                gain=gain / 100,
                confidence=confidence,
                seed=seed,
            )
        if out is not None and out.suffix == ".html":
            from probcomp.regime.page import write_page

            write_page(said, out)
    result = {**said.to_json(), **extra}
    save_json(result, None if out is None or out.suffix == ".html" else out)
    if json:
        print_json(result)
    else:
        _print(said, extra)
    if strict and said.action == "undecided":
        raise typer.Exit(UNDECIDED)
    return None


def _rows(where: list[str]) -> dict[str, str]:
    """Columns and values of ``COLUMN=VALUE``."""
    for text in where:
        if "=" not in text:
            raise InputError(f"--where {text}: write COLUMN=VALUE")
    return {name.strip(): value for name, _, value in (text.partition("=") for text in where)}


def _rule(prune: str | None) -> str | None:
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


def _campaign(
    task: str, *, store: tuple[Path, str | None], **options: Any
) -> "tuple[Advice, dict[str, Any]]":
    """Run pilots and advise; also what was run, for the result."""
    from probcomp.regime.planner import run_campaign
    from probcomp.regime.records import write_table
    from probcomp.regime.store import Store

    folder, address = store
    done = run_campaign(task, store=Store(folder, address), say=note, **options)
    table = folder / "runs.csv"
    write_table(done.records, done.advice.knob, table)
    cells = [
        {done.advice.knob: value, "density": where, "dense_seeds": seeds}
        for (value, where), seeds in done.cells.items()
    ]
    return done.advice, {"pilots": cells, "stopped": done.stopped, "runs": str(table)}


def _outlook(task: str, where: tuple[Path, str | None], json: bool, **plan: Any) -> None:
    """Say what a campaign would run and cost."""
    with quiet_stdout():
        from probcomp.regime.costs import outlook
        from probcomp.regime.planner import Planner
        from probcomp.regime.store import Store

        said = outlook(Planner(task, **plan), Store(*where))
    if json:
        return print_json(said)
    for cell in said["first"]:
        seeds = ", ".join(map(str, cell.pop("dense_seeds")))
        typer.echo(", ".join(f"{n} {v:g}" for n, v in cell.items()) + f" (dense seeds {seeds})")
    seconds = f", about {said['seconds']:.0f} s of training left" if "seconds" in said else ""
    first = sum(1 for _ in said["first"])
    typer.echo(
        f"{first} cells first: {said['epochs_of_the_first']:g} epochs of training{seconds}; "
        f"{said['kept']} runs are kept. Of {said['runs']} runs the others follow from what these "
        f"give, at most {said['epochs_of_the_later_at_most']:g} epochs."
    )
    return None


def _array(
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
            configs = grid_configs(str(task), method=_rule(prune))
            write_plan(configs, plan)
            said = {"plan": str(plan), "lines": str(len(configs))}
    if json:
        print_json(said)
    else:
        typer.echo(", ".join(f"{name} {value}" for name, value in said.items()))


def _print(said: "Advice", extra: dict[str, Any]) -> None:
    from rich.console import Console

    from probcomp.regime.words import details, headline

    console = Console(highlight=False, soft_wrap=True)
    console.print(headline(said), style="bold", markup=False)
    if not said.converged:
        console.print(
            said.convergence + "; the numbers below are not to be relied on", markup=False
        )
    lines = details(said)
    if extra:
        lines["pilots"] = (
            f"{len(extra['pilots'])} cells ({extra['stopped']}); table: {extra['runs']}"
        )
    for label, text in lines.items():
        console.print(f"  {label:<12}{text}", markup=False)
    for text in said.notes:
        console.print(f"  note: {text}", markup=False)
