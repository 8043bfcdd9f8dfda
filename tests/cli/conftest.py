"""A command line that runs in this process, and a recipe that returns at once."""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import probcomp.recipes
from probcomp.cli.app import run
from probcomp.report import Report
from tests.report.sample import make_report


@dataclass
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """``cli("compress", ...)`` in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run([str(a) for a in arguments])
        return Ran(status, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def refused(cli):
    """The one line that a refused command leaves: status 2, nothing on stdout, nothing written."""

    def call(*arguments: object) -> str:
        before = sorted(Path.cwd().rglob("*"))
        ran = cli(*arguments)
        assert (ran.status, ran.out) == (2, ""), ran
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("probcomp: error: ")
        assert "Traceback" not in ran.err
        assert sorted(Path.cwd().rglob("*")) == before
        return ran.err

    return call


@pytest.fixture(scope="session")
def sample() -> Report:
    return make_report((12, 8))


@dataclass
class FakeRecipe:
    """Stands for `probcomp.recipes.compress`: notes its arguments, returns a stored report."""

    report: Report
    calls: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    def __call__(self, model, data, **options):
        print("a library that talks on standard output")
        self.calls.append({"model": model, "data": data, **options})
        if self.error is not None:
            raise self.error
        return self

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.report.write(directory / "report.json")


@pytest.fixture
def recipe(sample, monkeypatch) -> FakeRecipe:
    fake = FakeRecipe(sample)
    monkeypatch.setattr(probcomp.recipes, "compress", fake)
    return fake
