"""The sequence of pilots: where it starts, what it costs, and that it ends in advice."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from probcomp.errors import InputError
from probcomp.regime.pilots import pilot_configs, run_pilot
from probcomp.regime.planner import LIGHT, Planner, pilot_costs, run_campaign, start_design
from probcomp.regime.store import Store
from tests.regime import tiny_task

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


def test_it_starts_at_the_corners_and_the_centre():
    assert start_design(tiny_task.task()) == [(1, 0.1), (4, 0.1), (1, 0.8), (4, 0.8), (2, 0.3)]


def test_few_levels_are_filled_up_and_too_few_are_refused():
    task = tiny_task.task()
    narrow = dataclasses.replace(task, levels=(1, 4))
    cells = start_design(narrow)
    assert len(set(cells)) == 5
    assert {(x, y) for x in (1, 4) for y in (0.1, 0.8)} <= set(cells)
    with pytest.raises(InputError, match="4 cells; at least 5"):
        start_design(dataclasses.replace(narrow, densities=(0.1, 0.8)))


def test_costs_leave_out_what_a_checkpoint_has():
    task = tiny_task.task()
    records = []
    for config in pilot_configs(SOURCE, 2, 0.3):
        record = run_pilot(config)
        record["dense"] |= {"wall_s": 14.0, "steps": 14, "continued_from": 0}  # 7 steps an epoch
        for run in record["runs"]:
            run["wall_s"] = 3.0
        records.append(record)
    costs = pilot_costs(records, task, [(1, 0.1), (2, 0.1), (4, 0.1)])
    seeds, retrain, epoch = 2, 6.0, 7.0
    assert costs == pytest.approx(
        [seeds * (retrain + epoch), seeds * retrain, seeds * (retrain + 2 * epoch)]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pilots": 4, "density": 0.3}, "4 pilots; at least 5"),
        ({"density": 0.05}, "outside the task's"),
        ({"density": 0.95}, "outside the task's"),
        ({"density": 0.3, "at": 9}, r"epochs 9 lies outside the task's levels \(1 to 4\)"),
        ({"density": 0.3, "gain": -1}, "gain is -1"),
        ({"density": 0.3, "confidence": 2}, "confidence is 2"),
        ({"density": 0.3, "batch": 0}, "batch is 0"),
    ],
)
def test_bad_campaigns_are_refused_before_any_training(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        run_campaign(SOURCE, store=Store(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def hot_task(levels):
    recipe = dataclasses.replace(tiny_task.task().recipe, epochs=1, horizon=1)
    return dataclasses.replace(
        tiny_task.task(), knob="lr", levels=levels, dense_seeds=(0,), recipe=recipe, retrain=recipe
    )


def test_values_at_which_training_diverges_are_replaced(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "probcomp.regime.planner.advise", lambda columns, **more: asked.update(more)
    )
    done = run_campaign(
        hot_task((0.1, 0.3, 1e6)), density=0.1, pilots=7, store=Store(tmp_path), show=False
    )
    assert done.cells[:4] == ((0.1, 0.1), (1e6, 0.1), (0.1, 0.8), (1e6, 0.8))
    assert sum(record["status"] == "done" for record in done.records) == 5
    assert {value for value, _ in done.cells[5:]} <= {0.1, 0.3}
    assert asked["levels"] == [0.1, 0.3]
    assert {value for value, _ in asked["candidates"]} <= {0.1, 0.3}
    with pytest.raises(InputError, match=r"diverged at lr 1e\+06.*fewer than two"):
        run_campaign(hot_task((0.1, 1e6)), density=0.1, pilots=7, store=Store(tmp_path), show=False)


def test_a_campaign_runs_what_is_proposed_and_nothing_twice(tmp_path, monkeypatch):
    """The fits are stood in for: what they propose is tested in test_advice and test_design."""
    asked = []

    def proposing(columns, **more):
        asked.append(more)
        value, load = more["candidates"][0]
        pilot = SimpleNamespace(settings={"epochs": value}, load=load)
        return SimpleNamespace(next_batch=(pilot,), next=pilot)

    monkeypatch.setattr("probcomp.regime.planner.advise", proposing)
    store, said = Store(tmp_path), []
    first = run_campaign(
        SOURCE, density=0.1, pilots=6, store=store, engine="serial", say=said.append
    )
    assert len(first.cells) == len(set(first.cells)) == 6
    assert first.cells[5] == asked[0]["candidates"][0]
    assert len(first.records) == 12
    assert [more["draws"] for more in asked] == [LIGHT, None]
    assert asked[0]["at"] == {"epochs": 4}
    assert len(asked[0]["costs"]) == len(asked[0]["candidates"]) == 4
    assert first.stopped == "all 6 pilots were run"
    assert any("pilots up to 6 of 6" in line for line in said)
    monkeypatch.setattr("probcomp.regime.pilots.train", None)
    again = run_campaign(SOURCE, density=0.1, pilots=6, store=store, engine="serial")
    assert again.records == first.records


def test_a_plan_is_asked_and_told_without_any_engine(monkeypatch):
    """What another engine does: run what is proposed, in any order, and tell."""

    def proposing(columns, **more):
        value, load = more["candidates"][-1]
        pilot = SimpleNamespace(settings={"epochs": value}, load=load)
        return SimpleNamespace(next_batch=(pilot,), next=pilot)

    monkeypatch.setattr("probcomp.regime.planner.advise", proposing)
    planner = Planner(SOURCE, density=0.1, pilots=6, batch=1)
    assert planner.stopped == ""
    first = planner.propose()
    assert [(c.recipe.epochs, c.density) for c in first[::2]] == start_design(tiny_task.task())
    records = [{**done_record(config), "key": config.key} for config in first]
    planner.tell(records[1:][::-1])
    with pytest.raises(InputError, match="1 proposed pilots have not been told"):
        planner.propose()
    planner.tell(records[:1])
    with pytest.raises(InputError, match="was not proposed, or is told already"):
        planner.tell(records[:1])
    (one, two) = planner.propose()
    assert one.dense_seed != two.dense_seed
    assert (one.recipe.epochs, one.density) == planner.cells[-1]
    planner.tell([{**done_record(config), "key": config.key} for config in (one, two)])
    assert planner.propose() == []
    assert planner.stopped == "all 6 pilots were run"
    assert len(planner.records) == 12


def done_record(config):
    run = {
        "density_realised": config.density, "test_error": 0.1, "train_error": 0.0,
        "pruned_test_error": 0.5, "wall_s": 2.0,
    }  # fmt: skip
    pair = {"lmc": -0.1, "cka_softmax": 0.9, "agreement": 0.9, "wall_s": 1.0}
    dense = {"test_error": 0.1, "wall_s": 1.0, "steps": 7, "continued_from": 0}
    return {
        "status": "done", "runs": [run], "pairs": [pair], "dense": dense,
        "config": config.to_json(),
    }  # fmt: skip
