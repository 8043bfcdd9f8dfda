"""``probcomp bench``: run a benchmark script of a source checkout."""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from probcomp.cli.options import Json, print_json
from probcomp.errors import InputError, unknown


def bench(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A benchmark; without it, all are listed.", show_default=False
        ),
    ] = None,
    json: Json = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed, for scripts that take one.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the JSON result.", show_default=False)
    ] = None,
) -> None:
    """Run benchmarks/NAME.py of the source checkout; further options go to the script.

    'python benchmarks/NAME.py --help' lists those; bayes and post_training have a --quick.
    """
    if name is None:
        purposes = {script: _purpose(path) for script, path in find_scripts().items()}
        if json:
            print_json(purposes)
        else:
            typer.echo("\n".join(f"{script:18} {said}" for script, said in purposes.items()))
        return
    raise typer.Exit(run_script(name, context.args, json=json, seed=seed, out=out))


def run_script(
    name: str,
    extra: list[str],
    *,
    json: bool = False,
    seed: int | None = None,
    out: Path | None = None,
) -> int:
    """Run one script and return its exit status. A script takes ``--out FILE`` and, where
    something in it is random, ``--seed``.

    Raises:
        InputError: no checkout, no such script, or a script that wrote no result.
    """
    scripts = find_scripts()
    if name not in scripts:
        raise unknown("benchmark", name, scripts)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "result.json" if json and out is None else out
        command = [sys.executable, str(scripts[name]), *extra]
        command += ["--seed", str(seed)] if seed is not None else []
        command += ["--out", str(target)] if target else []
        status = subprocess.run(
            command, stdout=sys.stderr if json else None, check=False
        ).returncode
        if json and status == 0:
            from probcomp.storage import read_json

            if target is None or not target.is_file():
                raise InputError(f"{scripts[name].name} wrote no result to --out")
            print_json(read_json(target))
    return status


def _purpose(path: Path) -> str:
    """The first line of a script's docstring; the script is not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def find_scripts() -> dict[str, Path]:
    """The benchmark scripts by name; they are part of the source, not of the installed package."""
    import probcomp

    root = Path(probcomp.__file__).resolve().parents[1]
    folder = root / "benchmarks"
    if not (root / "pyproject.toml").is_file() or not folder.is_dir():
        raise InputError(
            f"benchmarks run from a source checkout, and {root} is none; clone the repository and "
            "install it with pip install -e ."
        )
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem[0] != "_"}
