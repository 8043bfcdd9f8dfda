"""Engines: the cure for a missing library, and refusals. That all agree is in test_sweep."""

import sys

import pytest

from probcomp.errors import InputError
from probcomp.regime import engines
from probcomp.regime.engines import open_engine


@pytest.mark.parametrize(
    ("engine", "cure"), [("ray", "pip install 'ray'"), ("dask", "distributed")]
)
def test_a_missing_library_is_named_with_its_cure(engine, cure, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=cure), open_engine(engine, 1):
        pass


def test_unknown_engines_and_no_workers_are_refused():
    with pytest.raises(InputError, match=r"unknown engine 'rey'.*Did you mean 'ray'"):
        open_engine("rey", 1).__enter__()
    with pytest.raises(InputError, match="at least one"):
        open_engine("serial", 0).__enter__()


def test_an_error_of_a_job_is_that_of_its_future_and_leaves_the_engine_open(tmp_path):
    with open_engine("serial", 1) as submit:
        for _ in range(2):
            job = {"do": "pilot", "config": {}, "store": str(tmp_path)}
            with pytest.raises(InputError, match="configuration of a pilot"):
                submit(job).result()


def test_a_worker_is_started_with_one_thread(monkeypatch):
    """Several threads on shared cores make small networks many times slower."""
    started = {}
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(
        engines.subprocess, "Popen", lambda command, **options: started.update(options)
    )
    engines._start()
    assert {started["env"][f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"1"}


class FakeRay:
    """Counts starts and stops of a cluster."""

    def __init__(self):
        self.told = []

    def is_initialized(self):
        return self.told.count("init") > self.told.count("shutdown")

    def init(self, **options):
        self.told.append("init")

    def shutdown(self):
        self.told.append("shutdown")

    def remote(self, **options):
        return lambda function: function


def test_a_cluster_is_started_at_once_and_one_that_runs_is_left_running(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with open_engine("ray", 2):
        assert ray.told == ["init"]  # before anything is sent
        with open_engine("ray", 2):
            pass
        assert ray.told == ["init"]
    assert ray.told == ["init", "shutdown"]
    with open_engine("ray", 2):
        pass
    assert ray.told == ["init", "shutdown"] * 2
