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

ADVICE = (
    *("runs", "density", "knob", "at", "where", "gain", "confidence", "strict"),
    *("pilots", "engine", "jobs", "stop_early", "dry_run", "out"),
)
WITHOUT = {
    "--line": ("runs one pilot of a list", (*ADVICE, "prune")),
    "--plan": ("writes every pilot of the task, at all its densities", ADVICE),
    "--runs": (
        "trains nothing",
        ("pilots", "engine", "jobs", "store", "optuna", "prune", "stop_early", "dry_run"),
    ),
}
"""Options that a way of calling the command has no use for."""


def advise(
    context: typer.Context,
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
            help="Knob to turn; one that is not known as name:up or name:down (up: a larger value "
            "is hotter). Other known knobs that vary among the runs stay in the model.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Present value of the knob, by default the coldest; with --runs also NAME=VALUE "
            "for the other knobs, by default their medians.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="With --runs: only rows with COLUMN=VALUE; may be repeated."),
    ] = None,
    gain: Annotated[float, typer.Option(help="Least gain worth a move, in points.")] = 0.3,
    confidence: Annotated[float, typer.Option(help="Least probability of an action.")] = 0.8,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 3 if undecided.")] = False,
    pilots: Annotated[
        int,
        typer.Option(
            help="Pilots of --task, at least 5; each stands for a run with every dense seed of the "
            "task: nine of two seeds are 18 runs. 0: advise from all that the store has."
        ),
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
        typer.Option(
            help="With --task: write all its pilots here, one a line, and stop. Once they are run "
            "(--line), --task with --pilots 0 advises from them."
        ),
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
        _refuse_needless(context, "--plan" if line is None else "--line")
        return _array(task, plan, line, store, optuna, prune, json)
    if (runs is None) == (task is None):
        raise InputError(
            "advise needs --runs FILE.csv (past runs, at least five, nine are advised) or --task "
            "NAME (pilots are run), and not both"
        )
    if runs is not None:
        _refuse_needless(context, "--runs")
    if density is None:
        raise InputError("advise needs --density: the share of weights to keep, such as 0.1")
    if where and task is not None:
        raise InputError("--where chooses rows of --runs; a task has none")
    if knob is not None and task is not None:
        raise InputError("the task names its knob; leave --knob out")
    extra: dict[str, Any] = {}
    wanted: dict[str, Any] = {"density": density, "gain": gain / 100, "confidence": confidence}
    if task is not None:
        wanted |= {"pilots": pilots, "at": _value(at or []), "method": _rule(prune)}
        if dry_run:
            return _outlook(task, store, optuna, json, wanted)
    with quiet_stdout():
        if task is not None:
            said, extra = _campaign(
                task, store=(store, optuna), engine=engine, jobs=jobs, stop_early=stop_early,
                seed=seed, **wanted,
            )  # fmt: skip
        else:
            said = _from_runs(Path(runs or ""), knob, at or [], where or [], seed=seed, **wanted)
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


def _refuse_needless(context: typer.Context, way: str) -> None:
    """Refuse options that would be ignored."""
    what, needless = WITHOUT[way]
    for name in needless:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{way} {what}; leave --{name.replace('_', '-')} out")


def _from_runs(
    path: Path, knob: str | None, at: list[str], where: list[str], **options: Any
) -> "Advice":
    """Advise from a file. Every known knob that varies is in the model, and the one to turn."""
    name = None if knob is None else knob.partition(":")[0]
    present, rows = _settings(at, name), _rows(where)

    from probcomp.regime import advise, read_runs

    table = read_runs(path, also=[] if knob is None else [knob], where=rows)
    note("fitting the regime model; this takes up to a minute")
    return advise(table, knob=name, at=present, **options)


def _settings(at: list[str], knob: str | None) -> dict[str, float]:
    """Values by knob of ``VALUE``, which is the knob's to turn, and of ``NAME=VALUE``."""
    out = {}
    for text in at:
        name, _, value = text.rpartition("=")
        of = name.strip() or knob
        if of is None:
            raise InputError(
                f"--at {text} is the value of a knob: name it with --knob, or as NAME={text}"
            )
        out[of] = _number(value)
    return out


def _value(at: list[str]) -> float | None:
    """The present value of a task's only knob."""
    if len(at) > 1:
        raise InputError("a task has one knob; give --at once")
    return _number(at[0]) if at else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--at {text}: {text!r} is not a number") from None


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


def _outlook(task: str, folder: Path, optuna: str | None, json: bool, plan: dict[str, Any]) -> None:
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
