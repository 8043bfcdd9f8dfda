import json
import sys

import pytest

import probcomp

SCRIPT = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--out")
parser.add_argument("--size", type=int, default=1)
parser.add_argument("--fail", action="store_true")
args = parser.parse_args()
print("talking")
if args.fail:
    sys.exit(3)
if args.out and args.size != 9:
    json.dump({"seed": args.seed, "size": args.size}, open(args.out, "w"))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A source checkout with one benchmark."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "structure.py").write_text(SCRIPT)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(probcomp, "__file__", str(tmp_path / "probcomp" / "__init__.py"))
    # The script's output goes to the real streams, which pytest has replaced here.
    monkeypatch.setattr("subprocess.run", quietly(__import__("subprocess").run))
    return tmp_path


def quietly(run):
    def call(command, **kwargs):
        kwargs["stdout"] = (
            None if kwargs.get("stdout") is None else __import__("subprocess").DEVNULL
        )
        return run(command, **kwargs)

    return call


def test_runs_the_script_with_seed_and_further_options(cli, checkout) -> None:
    ran = cli("bench", "structure", "--seed", 5, "--size", 3, "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out) == {"seed": 5, "size": 3}


def test_out_keeps_the_result(cli, checkout) -> None:
    assert cli("bench", "structure", "--out", "r.json").status == 0
    assert json.loads((checkout / "r.json").read_text()) == {"seed": None, "size": 1}


def test_status_of_the_script_is_ours(cli, checkout) -> None:
    assert cli("bench", "structure", "--fail").status == 3


def test_unknown_names_and_missing_results(refused, checkout) -> None:
    assert "Did you mean 'structure'" in refused("bench", "structur")
    assert "wrote no result" in refused("bench", "structure", "--json", "--size", 9)


def test_outside_a_checkout(refused, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(probcomp, "__file__", str(tmp_path / "site" / "probcomp" / "__init__.py"))
    assert "run from a source checkout" in refused("bench", "structure")


def test_interpreter_is_ours(checkout, monkeypatch) -> None:
    from probcomp.cli import bench

    seen = []

    class Done:
        returncode = 0

    monkeypatch.setattr("subprocess.run", lambda command, **k: seen.append(command) or Done)
    assert bench.run_script("structure", ["--size", "2"]) == 0
    assert seen[0][0] == sys.executable
    assert seen[0][2:] == ["--size", "2"]


def test_without_a_name_the_benchmarks_are_listed(checkout, capfd):
    from probcomp.cli.app import run

    (checkout / "benchmarks" / "speed.py").write_text('"""How fast it is.\n\nMore."""\nraise 1\n')
    (checkout / "benchmarks" / "_shared.py").write_text("")
    assert run(["bench"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["speed", "structure"]
    assert lines[0].endswith("How fast it is.")
    assert run(["bench", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"speed": "How fast it is.", "structure": ""}
