"""``probcomp methods``: the table of methods, generated from their records."""

from typing import Annotated, Any

import typer

from probcomp.cli.options import Json, NoSeed, OutFile, print_json, quiet_stdout, save_json


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="These alone; default: all.")
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", help="A line for each method.")] = False,
    json: Json = False,
    out: OutFile = None,
    seed: NoSeed = 0,
) -> None:
    """List the methods that --method takes, with the choices that each is made of."""
    with quiet_stdout():
        from probcomp.recipes import METHODS

        records = [METHODS[name].record() for name in names or METHODS]
    save_json(records, out)
    if json:
        print_json(records)
    elif brief:
        _print_brief(records)
    else:
        _print(records)


def _print_brief(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("when")
    table.add_column("what it does", overflow="fold")
    for record in records:
        table.add_row(record["name"], f"{record['when']} training", record["title"])
    Console().print(table)


def _print(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for record in records:
        console.print(f"[bold]{record['name']}[/]  {record['title']}", highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for key, label in LABELS.items():
            value = record.get(key)
            if value not in ("", None):
                table.add_row(label, _words(value))
        console.print(table)
        console.print()


LABELS = {
    "evidence": "what the data say",
    "prior": "what is believed before",
    "inference": "how they are joined",
    "allocation": "how the budget is divided",
    "recovery": "what happens to survivors",
    "speedup": "what is removed",
    "when": "when",
    "data": "data it needs",
    "budgets": "budgets it meets",
    "own_rule": "has its own pruning rule",
    "probabilistic": "gives a posterior",
    "source": "source",
}
"""Fields of a method's record, in plain words."""


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
