"""``probcomp advise``: from past runs, or from pilots, to raise, lower or keep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probcomp.cli.destination import check_file
from probcomp.cli.options import Json, Seed, note, print_json, quiet_stdout, save_json
from probcomp.cli.pilots import array, campaign, outlook, rule
from probcomp.errors import InputError

if TYPE_CHECKING:
    from probcomp.regime import Advice

UNDECIDED = 3
STORE = Path("probcomp-pilots")
PAGES = (".html", ".htm")

ADVICE = (
    *("runs", "density", "knob", "load", "at", "where", "gain", "confidence", "strict"),
    *("pilots", "batch", "engine", "jobs", "stop_early", "dry_run", "out"),
)
WITHOUT = {
    "--line": ("runs one pilot of a list", (*ADVICE, "prune")),
    "--plan": ("writes every pilot of the task, at all its densities", ADVICE),
    "--pilots 0": ("runs none", ("batch", "engine", "jobs", "stop_early", "dry_run")),
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
        typer.Option(
            help="Where to advise: the share of weights to keep (0.1), or a value of --load.",
            show_default=False,
        ),
    ] = None,
    knob: Annotated[
        str | None,
        typer.Option(
            help="Knob to turn; one that is not known as name:up or name:down (up: a larger value "
            "is hotter). Other known knobs that vary among the runs stay in the model.",
            show_default=False,
        ),
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(
            help="With --runs: the column of --density, where it is not one of density, sparsity, "
            "width, params, or where several are there. More of it is a larger network.",
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
        typer.Option(
            help="With --runs: only rows with COLUMN=VALUE, or without it: COLUMN!=VALUE; COLUMN!= "
            "leaves out rows in which it is blank. May be repeated."
        ),
    ] = None,
    gain: Annotated[
        float, typer.Option(help="Least gain worth a move, in points (per cent) of test error.")
    ] = 0.3,
    confidence: Annotated[
        float, typer.Option(help="Least probability of an action; below it: undecided.")
    ] = 0.8,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 3 if undecided.")] = False,
    pilots: Annotated[
        int,
        typer.Option(
            help="Pilots of --task, at least 5; each stands for as many runs as the task has dense "
            "seeds: nine of digits are 36 runs. 0: advise from all that the store has."
        ),
    ] = 9,
    batch: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --runs: how many next pilots to propose. With --task: pilots a round; more "
            "keep more workers busy, fewer learn more from those before.",
        ),
    ] = 1,
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
        return array(task, plan, line, store, optuna, prune, json)
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
    if load is not None and task is not None:
        raise InputError("--load names a column of --runs; the load of a task is its density")
    if task is not None and pilots == 0:
        _refuse_needless(context, "--pilots 0")
    _check_asked(density, gain, confidence)
    if out is not None and not dry_run:
        check_file(out)
    extra: dict[str, Any] = {}
    wanted: dict[str, Any] = {"density": density, "gain": gain / 100, "confidence": confidence}
    wanted["batch"] = batch
    if task is not None:
        wanted |= {"pilots": pilots, "at": _value(at or []), "method": rule(prune)}
        if dry_run:
            return outlook(task, store, optuna, json, wanted)
    page = out if out is not None and out.suffix.lower() in PAGES else None
    with quiet_stdout():
        if task is not None:
            said, extra = campaign(
                task, store=(store, optuna), engine=engine, jobs=jobs, stop_early=stop_early,
                seed=seed, **wanted,
            )  # fmt: skip
        else:
            said = _from_runs(
                Path(runs or ""), knob, load, at or [], where or [], seed=seed, **wanted
            )
        if page is not None:
            from probcomp.regime.page import write_page

            write_page(said, page)
    result = {**said.to_json(), **extra}
    save_json(result, None if page is not None else out)
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


def _check_asked(density: float, gain: float, confidence: float) -> None:
    """Refuse numbers that no advice could be given for, in the units of the options."""
    if not density > 0:
        raise InputError(f"--density {density:g}: give the share of weights to keep, such as 0.1")
    if not 0 < gain < 100:
        raise InputError(
            f"--gain {gain:g}: give points of test error between 0 and 100; 0.3 is usual"
        )
    if not 0.5 <= confidence < 1:
        raise InputError(
            f"--confidence {confidence:g}: give a probability from 0.5 to below 1; 0.8 is usual"
        )


def _from_runs(
    path: Path, knob: str | None, load: str | None, at: list[str], where: list[str], **options: Any
) -> "Advice":
    """Advise from a file. Every known knob that varies is in the model, and the one to turn."""
    named, rows = _settings(at), _rows(where)

    from probcomp.regime import advise, read_runs

    table = read_runs(path, also=[] if knob is None else [knob], load=load, where=rows)
    name = None if knob is None else knob.partition(":")[0]
    if "" in named:  # a bare value is the knob's to turn
        if name is None and len(table.knobs) > 1:
            raise InputError(
                f"--at {named['']:g} is the value of a knob: name it with --knob, or as NAME=VALUE;"
                f" the table has {', '.join(one.name for one in table.knobs)}"
            )
        bare = name or table.knobs[0].name
        if bare in named:
            raise InputError(f"--at gives {bare} twice")
        named[bare] = named.pop("")
    note("fitting the regime model; this takes up to a minute")
    return advise(table, knob=name, at=named, **options)


def _settings(at: list[str]) -> dict[str, float]:
    """Values by knob of ``NAME=VALUE``, and by an empty name of ``VALUE``."""
    out: dict[str, float] = {}
    for text in at:
        name, _, value = text.rpartition("=")
        name = name.strip()
        if name in out:
            raise InputError(f"--at gives {name or 'a value without a name'} twice")
        out[name] = _number(value, text)
    return out


def _value(at: list[str]) -> float | None:
    """The present value of a task's only knob."""
    if len(at) > 1:
        raise InputError("a task has one knob; give --at once")
    return _number(at[0], at[0]) if at else None


def _number(value: str, text: str) -> float:
    """The value in what was given to ``--at``."""
    try:
        return float(value)
    except ValueError:
        raise InputError(f"--at {text}: {value.strip()!r} is not a number") from None


def _rows(where: list[str]) -> dict[str, str]:
    """Columns and values of ``COLUMN=VALUE``, and of ``COLUMN!=VALUE`` as ``COLUMN!``."""
    out: dict[str, str] = {}
    for text in where:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text}: write COLUMN=VALUE or COLUMN!=VALUE")
        if name.strip() in out:
            raise InputError(f"--where gives {name.strip()} twice; a row has one value of it")
        out[name.strip()] = value
    return out


def _print(said: "Advice", extra: dict[str, Any]) -> None:
    from rich.console import Console

    from probcomp.regime.words import report

    more = {}
    if extra:
        more["pilots"] = (
            f"{len(extra['pilots'])} cells ({extra['stopped']}); the same command with more "
            "--pilots goes on from them"
        )
        more["table"] = f"{extra['runs']} (for --runs)"
    headline, _, rest = report(said, more).partition("\n")
    console = Console(highlight=False, soft_wrap=True)
    console.print(headline, style="bold", markup=False)
    console.print(rest, markup=False)
