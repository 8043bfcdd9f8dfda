"""Sweeps: every engine gives the same, and a killed one resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probcomp.errors import InputError, ProbcompError
from probcomp.regime.pilots import pilot_configs, run_pilot
from probcomp.regime.store import Store
from probcomp.regime.sweep import grid_configs, read_plan, run_line, run_pilots, write_plan
from tests.regime.test_pilots import stripped

SOURCE = str(Path(__file__).with_name("tiny_task.py"))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def expected():
    configs = pilot_configs(SOURCE, 1, 0.3) + pilot_configs(SOURCE, 2, 0.3)
    return configs, [stripped(run_pilot(config)) for config in configs]


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_engines_give_the_same_records(expected, engine, tmp_path):
    configs, records = expected
    found = run_pilots(configs, Store(tmp_path), engine=engine, jobs=2)
    assert [stripped(record) for record in found] == records
    # One dense run a seed, with a checkpoint at both stops.
    assert len(list((tmp_path / "weights" / "dense").iterdir())) == 2
    assert len(list((tmp_path / "dense").glob("*.json"))) == 4
    # Weights of retrained models are needed for the pairs only.
    assert not list((tmp_path / "weights" / "runs").glob("*"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster starts slowly on a busy machine
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_clusters_give_the_same_records(expected, engine, tmp_path):
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    configs, records = expected
    found = run_pilots(configs, Store(tmp_path), engine=engine, jobs=2)
    assert [stripped(record) for record in found] == records


@pytest.mark.slow
def test_a_pilot_that_fails_in_a_worker_is_one_error(tmp_path):
    (tmp_path / "fails.py").write_text(
        Path(SOURCE).read_text() + "\n\ndef jitter(x):\n    raise RuntimeError('no such gas')\n"
    )
    configs = grid_configs(str(tmp_path / "fails.py"))[:1]
    with pytest.raises(ProbcompError, match="no such gas"):
        run_pilots(configs, Store(tmp_path / "store"), jobs=1)


@pytest.mark.slow
def test_a_worker_that_dies_is_told(tmp_path):
    (tmp_path / "dies.py").write_text(
        Path(SOURCE).read_text() + "\n\ndef jitter(x):\n    os._exit(9)\n"
    )
    configs = grid_configs(str(tmp_path / "dies.py"))[:1]
    with pytest.raises(ProbcompError, match=r"died \(status 9.*resumes"):
        run_pilots(configs, Store(tmp_path / "store"), jobs=1)


HOT = """

def hot():
    import dataclasses

    return dataclasses.replace(task(), knob="lr", levels=(0.3, 1e6), dense_seeds=(0,))
"""


def test_an_engine_that_is_open_serves_several_rounds_with_the_same_workers(tmp_path, monkeypatch):
    from probcomp.regime import engines

    start, started = engines._start, []

    def counted():
        started.append(start())
        return started[-1]

    monkeypatch.setattr(engines, "_start", counted)
    configs = pilot_configs(SOURCE, 1, 0.3)
    with engines.open_engine("processes", 1) as submit:
        for config in configs:
            run_pilots([config], Store(tmp_path), submit=submit, show=False)
        assert (len(started), started[0].poll()) == (1, None)
    assert started[0].poll() == 0
    assert len(Store(tmp_path).pilots.all()) == 2


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_dense_run_that_diverges_stops_no_other_pilot(engine, tmp_path):
    (tmp_path / "hot.py").write_text(Path(SOURCE).read_text() + HOT)
    configs = grid_configs(f"{tmp_path / 'hot.py'}:hot", [1e6, 0.3], [0.3])
    lost, kept = run_pilots(configs, Store(tmp_path / "store"), engine=engine, jobs=1)
    assert lost["status"] == "diverged"
    assert lost["reason"].startswith("the loss is")
    assert not lost["runs"]
    assert kept["status"] == "done"
    assert stripped(kept) == stripped(run_pilot(configs[1]))
    # Read back, a lost pilot is not run again.
    assert run_pilots(configs, Store(tmp_path / "store"), engine=engine, jobs=1) == [lost, kept]


SWEEP = """
import sys
from probcomp.regime.store import Store
from probcomp.regime.sweep import grid_configs, run_pilots
print(len(run_pilots(grid_configs(sys.argv[1], [1], [0.3, 0.8]), Store(sys.argv[2]), jobs=1)))
"""


def started_sweep(store, delay):
    """A sweep in a process group of its own, once two models of its first pilot are retrained."""
    slow = {**os.environ, "TINY_TASK_DELAY": delay, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SWEEP, SOURCE, str(store.folder)]
    sweep = subprocess.Popen(
        command, env=slow, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while len(list((store.folder / "runs").glob("*.json"))) < 2:
        assert time.monotonic() < deadline
        assert sweep.poll() is None
        time.sleep(0.02)
    return sweep


def test_a_killed_sweep_resumes_and_loses_at_most_the_run_in_progress(tmp_path):
    """Killed with its worker after the second retrained model; the third was under way."""
    store = Store(tmp_path)
    with started_sweep(store, "0.02") as sweep:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.communicate()  # the pipe closes when the worker is gone too
    names = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert len(names) >= 2
    configs = grid_configs(SOURCE, [1], [0.3, 0.8])
    records = run_pilots(configs, store, engine="serial")
    assert [stripped(r) for r in records] == [stripped(run_pilot(c)) for c in configs]
    used = {run["run"] for record in records for run in record["runs"]}
    assert used >= {path.stem for path in names}
    assert all(path.stat().st_mtime_ns == written for path, written in names.items())


def test_a_worker_whose_owner_was_killed_ends_its_pilot_and_leaves(tmp_path):
    store = Store(tmp_path)
    with started_sweep(store, "0.005") as sweep:
        sweep.kill()
        _, said = sweep.communicate(timeout=200)
    assert b"Traceback" not in said
    ((key, record),) = store.pilots.all().items()
    planned = {config.key: config for config in grid_configs(SOURCE, [1], [0.3, 0.8])}
    assert stripped(record) == stripped(run_pilot(planned[key]))


def test_a_finished_sweep_starts_no_worker(tmp_path, monkeypatch):
    configs = grid_configs(SOURCE, [1], [0.3])
    store = Store(tmp_path)
    first = run_pilots(configs, store, engine="serial")
    monkeypatch.setattr("probcomp.regime.sweep.open_engine", None)
    assert run_pilots(configs, store) == first


def test_a_task_list_runs_line_by_line(expected, tmp_path):
    configs, records = expected
    plan = tmp_path / "plan.jsonl"
    write_plan(configs, plan)
    assert read_plan(plan) == configs
    assert stripped(run_line(plan, 2, Store(tmp_path / "store"))) == records[1]
    for number in (0, 5):
        with pytest.raises(InputError, match="lines 1 to 4"):
            run_line(plan, number, Store(tmp_path / "store"))
    plan.write_text("{}\n")
    with pytest.raises(InputError, match="configuration of a pilot"):
        read_plan(plan)
    plan.write_text("not json\n")
    with pytest.raises(InputError, match=r"line 1 is not JSON.*make the list anew"):
        read_plan(plan)
    write_plan(configs[:1], plan)
    plan.write_text(plan.read_text() + "\n" + plan.read_text())
    with pytest.raises(InputError, match=r"line 2 is blank.*delete it"):
        read_plan(plan)
    plan.write_text("")
    with pytest.raises(InputError, match="no pilots"):
        read_plan(plan)
    with pytest.raises(InputError, match="cannot read"):
        read_plan(tmp_path / "nowhere")


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder with a task file in it, in which the plan is made, and another."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "my_task.py").write_text(Path(SOURCE).read_text())
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_task_list_runs_in_another_folder(beside, monkeypatch):
    write_plan(grid_configs("my_task.py:task", [1], [0.3]), beside / "plan.jsonl")
    monkeypatch.chdir(beside / "there")
    record = run_line(beside / "plan.jsonl", 1, Store(beside / "store"))
    assert record["status"] == "done"
    assert record["config"]["task"] == f"{beside / 'here' / 'my_task.py'}:task"
    (config,) = {c.task for c in read_plan(beside / "plan.jsonl")}
    assert config == record["config"]["task"]


def test_jobs_are_found_by_workers_in_another_folder(beside):
    """As those of a cluster that was started elsewhere."""
    from concurrent.futures import ThreadPoolExecutor

    configs = grid_configs("my_task.py", [1], [0.3])
    jobs = []

    with ThreadPoolExecutor(1) as pool:

        def submit(job):
            jobs.append(job)
            return pool.submit(lambda: {"status": "done"})

        store = Store("store")
        store.optuna = "sqlite:///pilots.db"  # as given; opening it takes seconds
        run_pilots(configs, store, submit=submit, show=False)
    for job in jobs:
        assert job["config"]["task"] == str(beside / "here" / "my_task.py")
        assert job["store"] == str(beside / "here" / "store")
        assert job["optuna"] == f"sqlite:///{beside / 'here' / 'pilots.db'}"
    assert [job["do"] for job in jobs] == ["dense", "dense", "pilot", "pilot"]
    # Packages and embedded tasks go by their names.
    plan = beside / "digits.jsonl"
    write_plan(pilot_configs("digits", 3, 0.2)[:1], plan)
    assert read_plan(plan)[0].task == "digits"


def test_the_store_must_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Store(tmp_path / "file")
