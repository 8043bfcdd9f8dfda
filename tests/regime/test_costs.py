"""What pilots cost, and what a campaign says before it runs any."""

from pathlib import Path

import pytest

from probcomp.regime.costs import by_cell, outlook, run_costs
from probcomp.regime.pilots import pilot_configs, run_pilot
from probcomp.regime.planner import Planner
from probcomp.regime.store import Store
from tests.regime import tiny_task

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


def test_costs_leave_out_what_a_checkpoint_of_the_same_seed_has():
    task = tiny_task.task()
    records = []
    for config in pilot_configs(SOURCE, 2, 0.3):
        record = run_pilot(config)
        record["dense"] |= {"wall_s": 14.0, "steps": 14, "continued_from": 0}  # 7 steps an epoch
        for run in record["runs"]:
            run["wall_s"] = 3.0
        records.append(record)
    retrain, epoch = 6.0, 7.0
    costs = [run_costs(records, task, [run])[0] for run in ((1, 0.1, 0), (2, 0.1, 1), (4, 0.1, 0))]
    assert costs == pytest.approx([retrain + epoch, retrain, retrain + 2 * epoch])
    # A new seed has no checkpoint; what an earlier run of the list trains, a later one has.
    costs = run_costs(records, task, [(2, 0.1, 7), (4, 0.3, 7), (4, 0.1, 7)])
    assert costs == pytest.approx([retrain + 2 * epoch, retrain + 2 * epoch, retrain])


def test_runs_are_gathered_by_cell():
    assert by_cell([(1, 0.1, 0), (2, 0.1, 0), (1, 0.1, 3)]) == {(1, 0.1): [0, 3], (2, 0.1): [0]}


def test_the_outlook_counts_epochs_and_runs_nothing(tmp_path):
    store = Store(tmp_path)
    said = outlook(Planner(SOURCE, density=0.1, pilots=7), store)
    assert not list(tmp_path.iterdir())
    assert (said["runs"], said["kept"], len(said["first"])) == (14, 0, 5)
    assert said["first"][1] == {"epochs": 4, "density": 0.1, "dense_seeds": [0, 1]}
    # Two dense runs of 4 epochs; eight pilots of two retrainings of 2 epochs.
    assert said["epochs_of_the_first"] == 2 * 4 + 8 * 2 * 2
    assert said["epochs_of_the_later_at_most"] == 6 * (2 * 2 + 4)
    assert "seconds" not in said
    run_pilot(pilot_configs(SOURCE, 4, 0.1)[0], store)
    said = outlook(Planner(SOURCE, density=0.1, pilots=7), store)
    assert said["kept"] == 1
    assert said["seconds"] > 0
