"""The worker: one answer a line, whatever a job does."""

import io
import json
import sys
from pathlib import Path

from probcomp.regime import worker
from probcomp.regime.pilots import pilot_configs
from probcomp.regime.store import Store

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


def test_a_dense_job_leaves_its_checkpoint(tmp_path):
    config = pilot_configs(SOURCE, 1, 0.3)[0]
    job = {"do": "dense", "config": config.to_json(), "store": str(tmp_path)}
    record = worker.do_job(job)
    store = Store(tmp_path)
    assert store.dense.get(config.dense_key) == record
    assert store.weights("dense", config.trajectory_key, config.dense_key).is_file()


def test_a_job_runs_on_one_thread(tmp_path):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = pilot_configs(SOURCE, 1, 0.3)[0]
        worker.do_job({"do": "dense", "config": config.to_json(), "store": str(tmp_path)})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_jobs_that_fail_are_answered_and_the_next_is_read(tmp_path, monkeypatch):
    bad = {"do": "pilot", "config": {}, "store": str(tmp_path)}
    lines = f"{json.dumps(bad)}\nno JSON\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    # The worker answers on the standard output it was started with and then takes it away.
    with (tmp_path / "answers").open("w") as answers:
        monkeypatch.setattr(sys, "stdout", answers)
        monkeypatch.setattr(worker.os, "dup2", lambda *_: None)
        worker.main()
    first, second = map(json.loads, (tmp_path / "answers").read_text().splitlines())
    assert "configuration of a pilot" in first["error"]
    assert second["error"].startswith("JSONDecodeError")
