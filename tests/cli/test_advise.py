"""``probcomp advise``: what it prints, task lists, and one line for bad input."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from probcomp.cli.app import run
from probcomp.regime.pilots import PilotConfig, run_pilot
from probcomp.regime.store import Store
from probcomp.regime.toys import sk_table
from tests.regime.test_pilots import stripped

TASK = str(Path(__file__).parents[1] / "regime" / "tiny_task.py")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs --runs"),
        (["--runs", "runs.csv"], "needs --density"),
        (["--runs", "runs.csv", "--task", "digits", "--density", "0.1"], "not both"),
        (["--runs", "nowhere.csv", "--density", "0.1"], "nowhere.csv"),
        (["--task", "nowhere.py", "--density", "0.1"], "no task file nowhere.py"),
        (["--task", TASK, "--density", "0.3", "--pilots", "3"], "at least 5"),
        (["--task", TASK, "--density", "0.01"], "outside the task's"),
        (["--task", TASK, "--density", "0.3", "--knob", "lr"], "leave --knob out"),
        (["--task", TASK, "--density", "0.3", "--where", "a=b"], "--where chooses rows"),
        (["--runs", "nowhere.csv", "--density", "0.3", "--where", "a"], "or COLUMN!=VALUE"),
        (["--task", TASK, "--density", "0.3", "--engine", "rey"], "Did you mean 'ray'"),
        (["--task", TASK, "--density", "0.3", "--at", "2", "--at", "1"], "give --at once"),
        (["--runs", "nowhere.csv", "--density", "0.3", "--at", "lr=x"], "'x' is not a number"),
        (["--runs", "r.csv", "--density", "0.3", "--at", "lr=1", "--at", "lr=2"], "gives lr twice"),
        (["--runs", "r.csv", "--density", "0.3", "--at", "lr="], "--at lr=: '' is not a number"),
        (["--runs", "r.csv", "--density", "0.3", "--where", "a=1", "--where", "a=2"], "a twice"),
        (["--runs", "r.csv", "--density", "0"], "--density 0: give the share of weights to keep"),
        (["--runs", "r.csv", "--density", "nan"], "--density nan: give the share"),
        (["--runs", "r.csv", "--density", "0.3", "--gain", "0"], "points of test error between 0"),
        (["--runs", "r.csv", "--density", "0.3", "--confidence", "80"], "a probability from 0.5"),
        (["--runs", "r.csv", "--density", "0.3", "--out", "."], "it is a directory; name a file"),
        (["--runs", "r.csv", "--density", "0.3", "--batch", "0"], "Invalid value for '--batch'"),
        (
            ["--task", TASK, "--density", "0.3", "--load", "width"],
            "--load names a column of --runs",
        ),
        (
            ["--task", TASK, "--density", "0.3", "--pilots", "0", "--batch", "2"],
            "leave --batch out",
        ),
        (["--task", TASK, "--plan", "p", "--batch", "2"], "leave --batch out"),
        (["--task", TASK, "--plan", "p", "--load", "width"], "leave --load out"),
        (["--runs", "r.csv", "--density", "0.3", "--pilots", "9"], "nothing; leave --pilots out"),
        (["--runs", "r.csv", "--density", "0.3", "--dry-run"], "nothing; leave --dry-run out"),
        (["--task", TASK, "--plan", "p", "--density", "0.3"], "densities; leave --density out"),
        (["--task", TASK, "--plan", "p", "--pilots", "9"], "leave --pilots out"),
        (["--task", TASK, "--plan", "p", "--dry-run"], "leave --dry-run out"),
        (["--plan", "p", "--line", "1", "--prune", "global"], "a list; leave --prune out"),
        (["--task", TASK, "--density", "0.3", "--pilots", "0"], "has no pilot of task"),
        (["--plan", "p.jsonl"], "--task T --plan FILE"),
        (["--line", "3"], "--task T --plan FILE"),
        (["--plan", "nowhere.jsonl", "--line", "3"], "cannot read nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["advise", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


TABLES = {
    "too few": ("10,0.1,0.1,0,0.9\n20,0.2,0.1,0,0.9", "2 distinct pilots; at least 5"),
    "one density": ("\n".join(f"{e},0.1,0.1,0,0.9" for e in range(1, 7)), "one density only"),
    "not a number": (
        "10,0.1,nan,0,0.9\n20,0.1,0.1,0,0.9",
        "missing value(s), in line 2 (the header is line 1)",
    ),
    "constant knob": (
        "\n".join(f"10,{d},0.1,0,0.9" for d in (0.1, 0.2, 0.3, 0.4, 0.5)),
        "constant at 10",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_used_are_refused_before_sampling(case, tmp_path, capsys):
    rows, words = TABLES[case]
    (tmp_path / "runs.csv").write_text(f"epochs,density,test_error,lmc,cka\n{rows}\n")
    assert run(["advise", "--runs", str(tmp_path / "runs.csv"), "--density", "0.1"]) == 2
    assert words in capsys.readouterr().err


def test_missing_columns_and_mislabelled_directions_are_named(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_text("epochs,density,test_error\n10,0.1,0.1\n")
    assert run(["advise", "--runs", str(path), "--density", "0.1"]) == 2
    assert "missing columns: lmc" in capsys.readouterr().err
    path.write_text("epochs,density,test_error,lmc,cka\n10,0.1,0.1,0,0.9\n")
    command = ["advise", "--runs", str(path), "--density", "0.1", "--knob", "epochs:up"]
    assert run(command) == 2
    assert "the direction is 'down'" in capsys.readouterr().err


def test_a_table_of_several_tasks_asks_for_one_of_them(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    rows = [f"{e},{d},0.1,0,0.9,{t}" for t in "ab" for e in (5, 10) for d in (0.1, 0.4)]
    path.write_text("epochs,density,test_error,lmc,cka,task\n" + "\n".join(rows) + "\n")
    command = ["advise", "--runs", str(path), "--density", "0.1"]
    assert run(command) == 2
    assert "choose one, as in task=a" in capsys.readouterr().err
    for chosen in ("task=b", "task!=a"):  # four runs of it
        assert run([*command, "--where", chosen]) == 2
        assert "4 distinct pilots" in capsys.readouterr().err


def two_knobs(path):
    """27 runs of three learning rates, epochs and densities each."""
    rows = [
        f"{lr},{e},{d},{0.2 - 0.1 * d + 0.01 * lr * e / 40},{-0.01 * lr},{0.9 + 0.01 * d}"
        for lr in (0.05, 0.1, 0.2) for e in (10, 40, 160) for d in (0.05, 0.2, 0.8)
    ]  # fmt: skip
    path.write_text("lr,epochs,density,test_error,lmc,cka\n" + "\n".join(rows) + "\n")
    return str(path)


def test_the_knob_to_turn_is_no_reason_to_forget_the_others(tmp_path, monkeypatch):
    """Runs that differ in epochs would pass for repeats, and their differences for luck."""
    asked = {}
    monkeypatch.setattr(
        "probcomp.regime.advise", lambda runs, **more: asked.update(more, runs=runs) or 1 / 0
    )
    command = ["advise", "--runs", two_knobs(tmp_path / "runs.csv"), "--density", "0.1"]
    for knob, other in (("lr", "epochs = 20"), ("epochs:down", "lr=0.1")):
        run([*command, "--knob", knob, "--at", "0.1", "--at", other])
        assert {one.name for one in asked["runs"].knobs} == {"lr", "epochs"}
        assert len(set(asked["runs"].cells)) == 27
        assert asked["knob"] == knob.partition(":")[0]
    run([*command, "--knob", "lr", "--at", "0.1", "--at", "epochs = 20"])
    assert asked["at"] == {"lr": 0.1, "epochs": 20}
    run(command)
    assert (asked["knob"], asked["at"], asked["batch"]) == (None, {}, 1)


def test_a_bare_value_is_that_of_the_knob_to_turn(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr("probcomp.regime.advise", lambda runs, **more: asked.update(more) or 1 / 0)
    path = two_knobs(tmp_path / "runs.csv")
    command = ["advise", "--runs", path, "--density", "0.1"]
    assert run([*command, "--at", "0.1"]) == 2
    assert (
        "name it with --knob, or as NAME=VALUE; the table has lr, epochs" in capsys.readouterr().err
    )
    assert run([*command, "--knob", "lr", "--at", "0.1", "--at", "lr=0.2"]) == 2
    assert "--at gives lr twice" in capsys.readouterr().err
    run([*command, "--where", "epochs=40", "--at", "0.1"])  # one knob is left
    assert asked["at"] == {"lr": 0.1}


def test_the_load_may_have_any_name_and_a_batch_be_asked_for(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(
        "probcomp.regime.advise", lambda runs, **more: asked.update(more, runs=runs) or 1 / 0
    )
    path = Path(two_knobs(tmp_path / "runs.csv"))
    path.write_text(path.read_text().replace("density", "channels"))
    command = ["advise", "--runs", str(path), "--density", "0.1"]
    assert run(command) == 2
    assert "missing column: a load" in capsys.readouterr().err
    assert run([*command, "--load", "chanels"]) == 2
    assert "no load column 'chanels'" in capsys.readouterr().err
    run([*command, "--load", "channels", "--batch", "3"])
    assert (asked["runs"].load_name, asked["batch"]) == ("channels", 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--density", "0.9"], "density 0.9 lies outside the runs (0.05 to 0.8)"),
        (["--density", "0.1", "--at", "epochs=5"], "epochs 5 lies outside the runs (10 to 160)"),
        (["--density", "0.1", "--at", "wd=5"], "unknown knob 'wd'"),
    ],
)
def test_what_lies_outside_the_runs_is_refused_before_sampling(
    options, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("probcomp.regime.fit.sample", None)
    assert run(["advise", "--runs", two_knobs(tmp_path / "runs.csv"), *options]) == 2
    assert words in capsys.readouterr().err


def short(data, physical, *, seed, **length):
    """A hundred steps: the way from runs to an answer is tested, not what it says."""
    from probcomp.regime import sampler
    from probcomp.regime.model import regime_model

    program = partial(regime_model, physical=physical)
    mcmc = sampler.run_nuts(program, (data,), seed=seed, warmup=50, draws=50, attempt=0)
    return mcmc, sampler.gates(mcmc)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_cluster_leaves_the_records_that_a_pilot_gives_by_itself(engine, tmp_path):
    """Two workers, and a fit between two rounds; in a process of its own, as a user starts it."""
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    start = "import sys; from probcomp.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "advise", "--task", TASK, "--density", "0.3"]
    options = ["--pilots", "6", "--engine", engine, "--jobs", "2", "--store", str(tmp_path)]
    done = subprocess.run(
        [*command, *options, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Ray forks to start: done after a fit, with JAX's threads about, that may hang.
    assert "os.fork() was called" not in done.stderr
    assert sum(len(cell["dense_seeds"]) for cell in json.loads(done.stdout)["pilots"]) == 12
    records = Store(tmp_path).pilots.all()
    assert len(records) == 12  # six pilots of two dense seeds
    for record in records.values():
        assert stripped(record) == stripped(run_pilot(PilotConfig.of(record["config"])))


@pytest.mark.slow
def test_runs_in_a_file_to_json_a_page_and_a_status(tmp_path, capsys, monkeypatch):
    import csv

    monkeypatch.setattr("probcomp.regime.fit.sample", short)
    columns, _ = sk_table([0.5, 0.8, 1.3, 2.2], [0.5, 1.0, 2.2])
    with (tmp_path / "runs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values()))
    page = tmp_path / "page.html"
    command = ["advise", "--runs", str(tmp_path / "runs.csv"), "--density", "0.6", "--json"]
    status = run([*command, "--out", str(page), "--strict", "--confidence", "0.99"])
    said = json.loads(capsys.readouterr().out)
    assert status == (3 if said["action"] == "undecided" else 0)
    assert sum(said["probability"].values()) == pytest.approx(1)
    text = page.read_text()
    assert text.count("<img") >= 4
    assert "temperature" in text


@pytest.mark.slow
def test_json_on_the_published_grid(real_data, capsys):
    table = real_data / "tables" / "three_regime_pruning_epochs.csv"
    assert run(["advise", "--runs", str(table), "--density", "0.05", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # At 5 % the longest training has 17.4 % error, 60 to 80 epochs 14.6 %.
    assert said["action"] == "raise"
    assert said["turn"] == "decrease"
    assert 40 <= said["best"] <= 100
