"""``probcomp advise``: from past runs to raise, lower or keep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probcomp.cli.options import Json, OutFile, Seed, note, print_json, quiet_stdout, save_json
from probcomp.errors import InputError

if TYPE_CHECKING:
    from probcomp.regime import Advice

UNDECIDED = 3


def advise(
    runs: Annotated[
        Path | None,
        typer.Option(
            help="CSV of past runs: a knob (epochs, batch_size, lr, ...), density or width, "
            "test_error, lmc, cka.",
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
    gain: Annotated[float, typer.Option(help="Least gain worth a move, in points.")] = 0.3,
    confidence: Annotated[float, typer.Option(help="Least probability of an action.")] = 0.8,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 3 if undecided.")] = False,
    seed: Seed = 0,
    json: Json = False,
    out: OutFile = None,
) -> None:
    """Say whether to raise, lower or keep the temperature of training before pruning, and how sure
    that is. Works on runs at hand; nothing is trained.
    """
    if runs is None:
        raise InputError("advise needs --runs FILE.csv: past runs, at least five, nine are advised")
    if density is None:
        raise InputError("advise needs --density: the share of weights to keep, such as 0.1")
    with quiet_stdout():
        from probcomp.regime import advise as run

        note("fitting the regime model; this takes up to a minute")
        name = None if knob is None else knob.partition(":")[0]
        if at is not None and name is None:
            raise InputError("--at is the value of a knob: name it with --knob")
        said = run(
            runs,
            density=density,
            knobs=None if knob is None else [knob],
            at=None if at is None or name is None else {name: at},
            gain=gain / 100,
            confidence=confidence,
            seed=seed,
        )
    save_json(said.to_json(), out)
    if json:
        print_json(said.to_json())
    else:
        _print(said)
    if strict and said.action == "undecided":
        raise typer.Exit(UNDECIDED)


def _print(said: "Advice") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if said.action == "undecided":
        headline = f"undecided about {said.knob}"
    elif said.action == "keep":
        headline = f"keep {said.knob} at {said.at[said.knob]:g}"
    else:
        headline = f"{said.action} the temperature: {said.turn} {said.knob}"
    console.print(f"[bold]{headline}[/]  (at {said.load_name} {said.load:g})")
    if not said.converged:
        console.print(
            said.convergence + "; the numbers below are not to be relied on", markup=False
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in said.probability.items())
    phases = ", ".join(f"{name} {share:.0%}" for name, share in said.regime.items())
    lines = {
        "probability": shares,
        "regime": phases,
        "present": ", ".join(f"{name} {value:g}" for name, value in said.at.items()),
        "best": f"{said.knob} {said.best:g} (90 %: {_span(said.best_interval)})",
        "gain": f"{said.gain_points:.2f} points of test error (90 %: {_span(said.gain_interval)})",
        "error now": f"{said.error_points:.2f} % (90 %: {_span(said.error_interval)})",
    }
    if said.next is not None:
        where = ", ".join(f"{name} {value:g}" for name, value in said.next.settings.items())
        lines["next pilot"] = (
            f"{where}, {said.load_name} {said.next.load:g}: {said.next.decision_gain:.3f} nats "
            f"about the decision, {said.next.information:.2f} about the model, "
            f"cost {said.next.cost:g}"
        )
    for label, text in lines.items():
        console.print(f"  {label:<12}{text}", markup=False)
    for text in said.notes:
        console.print(f"  note: {text}", markup=False)


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3g} to {interval[1]:.3g}"
