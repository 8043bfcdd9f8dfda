"""Options that every command has, and the rules of output."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random step.")]
NoSeed = Annotated[
    int, typer.Option("--seed", min=0, help="Accepted everywhere; nothing is random here.")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="Also write the JSON result to this file.")
]


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Keep standard output for our result, and standard error for one line if the work fails.

    What libraries and user code print is held back, and shown on standard error when the work is
    done. It is dropped if the work fails: torch.export prints whole graphs before it raises.
    """
    held = io.StringIO()
    with contextlib.redirect_stdout(sys.stderr if debugging() else held):
        yield
    sys.stderr.write(held.getvalue())


def debugging() -> bool:
    """Whether ``PROBCOMP_DEBUG`` asks for tracebacks, warnings and all that libraries print."""
    return os.environ.get("PROBCOMP_DEBUG", "") not in ("", "0")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_json(value: Any, out: Path | None) -> None:
    """Write the result of a command to ``--out``, if it was given."""
    if out is not None:
        from probcomp.storage import write_json

        write_json(out, value)


def note(text: str) -> None:
    """A line about what goes on, for somebody who watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")
