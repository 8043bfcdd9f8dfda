"""``probcomp advise --task``: task lists, dry runs, and the tables that campaigns leave."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from probcomp.cli.app import run
from probcomp.regime import read_runs
from probcomp.regime.costs import outlook
from probcomp.regime.planner import Planner
from probcomp.regime.store import Store
from tests.regime.test_planner import done_record

TASK = str(Path(__file__).parents[1] / "regime" / "tiny_task.py")


def test_a_task_list_is_written_and_run_line_by_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["advise", "--task", TASK, "--plan", "plan.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == "18"
    assert len(Path("plan.jsonl").read_text().splitlines()) == 18
    command = ["advise", "--plan", "plan.jsonl", "--line", "2", "--store", "pilots", "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done"
    assert len(list(Path("pilots/pilots").glob("*.json"))) == 1
    assert run(["advise", "--plan", "plan.jsonl", "--line", "19"]) == 2
    assert "lines 1 to 18" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["advise", "--task", TASK, "--density", "0.3", "--pilots", "7", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    told = outlook(Planner(TASK, density=0.3, pilots=7), Store(tmp_path / "none"))
    for cell in told["first"]:
        seeds = ", ".join(map(str, cell["dense_seeds"]))
        assert (
            f"epochs {cell['epochs']:g}, density {cell['density']:g} (dense seeds {seeds})" in said
        )
    assert f"{len(told['first'])} cells first: {told['epochs_of_the_first']:g} epochs of" in said
    assert "; 0 runs are kept. Of 14 runs the others" in said


@pytest.mark.parametrize("address", ["sqlite:///pilots.db", "pilots.log"])
def test_a_dry_run_makes_no_storage_and_reads_one_that_is_there(
    address, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    command = ["advise", "--task", TASK, "--density", "0.3", "--dry-run", "--optuna", address]
    assert run(command) == 0
    assert "; 0 runs are kept" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    planner = Planner(TASK, density=0.3)
    record = done_record(planner.propose()[0])
    Store(tmp_path / "probcomp-pilots", address).pilots.put(record["key"], record)
    assert run(command) == 0
    assert "; 1 runs are kept" in capsys.readouterr().out


class Told(SimpleNamespace):
    """Advice of which only the way from pilots to files is asked."""

    def to_json(self):
        return {"action": self.action}


@pytest.fixture
def campaigns(monkeypatch, tmp_path):
    """Campaigns whose pilots are made up and whose advice is none; what each was asked."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def made_up(task, *, density, store, pilots, engine, jobs, stop_early, **plan):
        asked.append(plan)
        planner = Planner(task, density=density, pilots=pilots, **plan)
        records = [{**done_record(config), "task": "tiny"} for config in planner.propose()]
        advice = Told(action="keep", knob=planner.knob.name, load=density)
        return SimpleNamespace(
            advice=advice, records=records, cells={(1.0, 0.1): [0]}, stopped="made"
        )

    monkeypatch.setattr("probcomp.regime.planner.run_campaign", made_up)
    return asked


def test_no_campaign_writes_over_the_table_of_another(campaigns, capsys):
    """Each names the table of its own pilots, which --runs reads."""
    tables = []
    for density in ("0.3", "0.1", "0.3"):
        assert run(["advise", "--task", TASK, "--density", density, "--json"]) == 0
        tables.append(Path(json.loads(capsys.readouterr().out)["runs"]))
    assert tables[0] == tables[2]  # the same campaign once more
    assert tables[0] != tables[1]
    assert tables[0].parent == Path("probcomp-pilots/tables")
    for table in tables:
        assert len(read_runs(table)) >= 5


def test_a_batch_is_pilots_a_round(campaigns):
    assert run(["advise", "--task", TASK, "--density", "0.3", "--batch", "3", "--json"]) == 0
    assert campaigns[0]["batch"] == 3
