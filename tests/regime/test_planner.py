"""The sequence of pilots: where it starts, what it costs, and that it ends in advice."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from probcomp.errors import InputError
from probcomp.regime.pilots import pilot_configs
from probcomp.regime.planner import LIGHT, Planner, nth_seed, run_campaign, start_design
from probcomp.regime.store import Store
from tests.regime import tiny_task

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


@pytest.mark.parametrize(
    ("density", "here", "runs"), [(0.1, 0.1, 8), (0.7, 0.8, 8), (0.3, 0.3, 10), (0.2, 0.3, 10)]
)
def test_it_starts_where_advice_is_wanted_and_at_the_corners(density, here, runs):
    """0.2 is not the task's: 0.3 is the nearest on the logarithmic scale."""
    cells = start_design(tiny_task.task(), density)
    assert cells[:3] == [(1, here), (4, here), (2, here)]
    assert set(cells[3:]) == {(x, y) for x in (1, 4) for y in (0.1, 0.8) if y != here}
    planner = Planner(SOURCE, density=density, pilots=9)
    planner.propose()
    twice = [(*cell, seed) for cell in cells for seed in ((0, 1) if cell[1] == here else (0,))]
    assert planner.runs == twice
    assert len(twice) == runs


def test_five_runs_are_the_least_and_span_two_densities():
    once = dataclasses.replace(tiny_task.task(), dense_seeds=(3,))
    planner = Planner(once, density=0.3, pilots=5)
    planner.propose()
    assert planner.runs == [(1, 0.3, 3), (4, 0.3, 3), (2, 0.3, 3), (1, 0.1, 3), (4, 0.1, 3)]


def test_few_levels_are_filled_up_and_too_few_are_refused():
    task = tiny_task.task()
    narrow = dataclasses.replace(task, levels=(1, 4))
    cells = start_design(narrow, 0.1)
    assert len(set(cells)) == 5
    assert {(x, y) for x in (1, 4) for y in (0.1, 0.8)} <= set(cells)
    with pytest.raises(InputError, match="4 cells; at least 5"):
        start_design(dataclasses.replace(narrow, densities=(0.1, 0.8)), 0.1)


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
        "probcomp.regime.planner.advise",
        lambda columns, **more: asked.update(more) or plain_advice(),
    )
    done = run_campaign(
        hot_task((0.1, 0.3, 1e6)), density=0.1, pilots=7, store=Store(tmp_path), show=False
    )
    cells = list(done.cells)
    assert cells[:5] == [(0.1, 0.1), (1e6, 0.1), (0.3, 0.1), (0.1, 0.8), (1e6, 0.8)]
    assert sum(record["status"] == "done" for record in done.records) == 5
    assert {value for value, _ in cells[5:]} <= {0.1, 0.3}
    assert asked["levels"] == [0.1, 0.3]
    assert {value for value, _ in asked["candidates"]} <= {0.1, 0.3}
    with pytest.raises(InputError, match=r"diverged at lr 1e\+06.*fewer than two"):
        run_campaign(hot_task((0.1, 1e6)), density=0.1, pilots=7, store=Store(tmp_path), show=False)


def plain_advice(**more):
    """An `Advice` with notes; the other fields say nothing."""
    from probcomp.regime.advice import Advice

    return Advice(**{**dict.fromkeys(Advice.__dataclass_fields__), "notes": (), **more})


def test_a_level_is_lost_where_half_of_its_trainings_diverge_and_the_advice_says_so(monkeypatch):
    asked = {}

    def advising(columns, **more):
        asked.update(more)
        return plain_advice()

    monkeypatch.setattr("probcomp.regime.planner.advise", advising)

    def lost(config):
        return config.recipe.epochs == 4 and config.density == 0.1 and config.dense_seed == 1

    planner = Planner(SOURCE, density=0.1, pilots=9)
    while configs := planner.propose():
        planner.tell(done_record(c) | ({"status": "diverged"} if lost(c) else {}) for c in configs)
    said = planner.advice()
    assert asked["levels"] == [1, 2, 4]  # one of four or more
    assert said.notes == ("1 of 18 pilots diverged: epochs 4 at density 0.1 (1).",)
    first = Planner(SOURCE, density=0.1, pilots=9)
    first.tell(
        done_record(c) | ({"status": "diverged"} if c.recipe.epochs == 4 else {})
        for c in first.propose()
    )
    assert {run[0] for run in first.runs[10:]} <= {1, 2}
    (note,) = first.advice().notes
    assert "epochs 4 is not advised: half did or more" in note
    assert asked["levels"] == [1, 2]


def test_the_next_pilot_of_the_advice_is_what_the_plan_would_run(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "probcomp.regime.planner.advise", lambda columns, **more: asked.update(more)
    )
    planner = answered(Planner(SOURCE, density=0.1, pilots=6), lambda config: config.density)
    planner.advice()
    longer = answered(Planner(SOURCE, density=0.1, pilots=7), lambda config: config.density)
    assert asked["candidates"] == [longer.runs[12][:2]]
    assert len(asked["costs"]) == 1


def test_no_pilot_is_run_where_those_of_the_store_are_asked(tmp_path, monkeypatch):
    """What a job array has left, other dense seeds and all."""
    monkeypatch.setattr("probcomp.regime.planner.advise", lambda columns, **more: columns)
    store = Store(tmp_path)
    with pytest.raises(InputError, match="has no pilot of task 'tiny' as it is"):
        run_campaign(SOURCE, density=0.1, pilots=0, store=store)
    kept = []
    for value, density, seed in [(1, 0.1, 0), (4, 0.1, 0), (1, 0.8, 7), (4, 0.8, 0), (2, 0.3, 1)]:
        (config,) = pilot_configs(SOURCE, value, density, dense_seeds=[seed])
        kept.append(config.key)
        store.pilots.put(config.key, done_record(config))
    other = dataclasses.replace(config, retrain_seeds=(5, 6))  # of another task
    store.pilots.put(other.key, done_record(other))
    monkeypatch.setattr("probcomp.regime.pilots.train", None)
    done = run_campaign(SOURCE, density=0.1, pilots=0, store=store)
    assert sorted(record["key"] for record in done.records) == sorted(kept)
    assert (4, 0.8, 0) in done.runs
    assert (1, 0.8, 7) in done.runs
    assert len(done.advice["epochs"]) == 5
    assert done.stopped == "those of the store"


def test_a_campaign_runs_what_is_proposed_and_nothing_twice(tmp_path, monkeypatch):
    """The last fit is stood in for: what it says is tested in test_advice."""
    asked = []
    monkeypatch.setattr(
        "probcomp.regime.planner.advise", lambda columns, **more: asked.append(more)
    )
    store, said = Store(tmp_path), []
    first = run_campaign(
        SOURCE, density=0.1, pilots=6, store=store, engine="serial", say=said.append
    )
    assert len(first.runs) == len(set(first.runs)) == len(first.records) == 12
    assert list(first.cells)[:5] == start_design(tiny_task.task(), 0.1)
    assert [(c["recipe"]["epochs"], c["density"], c["dense_seed"]) for c in configs_of(first)] == [
        *first.runs
    ]
    assert [more["draws"] for more in asked] == [None]
    assert asked[0]["at"] == {"epochs": 4}
    assert len(asked[0]["costs"]) == len(asked[0]["candidates"]) == 1
    assert first.stopped == "all 12 runs were made"
    assert any("runs up to 12 of 12" in line for line in said)
    monkeypatch.setattr("probcomp.regime.pilots.train", None)
    again = run_campaign(SOURCE, density=0.1, pilots=6, store=store, engine="serial")
    assert again.records == first.records


def test_which_pilots_are_run_does_not_follow_the_workers(tmp_path, monkeypatch):
    """A campaign that is killed on one machine goes on alike on another."""
    monkeypatch.setattr("probcomp.regime.planner.advise", lambda columns, **more: None)

    def answer(configs, store, **more):
        rounds.append(len(configs))
        return [done_record(c, 0.1 * c.recipe.epochs) for c in configs]

    monkeypatch.setattr("probcomp.regime.planner.run_pilots", answer)
    found = []
    for jobs in (1, 8):
        rounds = []
        done = run_campaign(SOURCE, density=0.1, pilots=9, store=Store(tmp_path), jobs=jobs)
        found.append(done.runs)
        assert rounds == [8, 2, 2, 2, 2, 2]
    assert found[0] == found[1]


def configs_of(campaign):
    return [record["config"] for record in campaign.records]


def test_a_campaign_killed_in_a_later_round_goes_on_with_the_same_plan(tmp_path, monkeypatch):
    from probcomp.regime import sweep

    monkeypatch.setattr("probcomp.regime.planner.advise", lambda columns, **more: plain_advice())
    pilot, done, said = sweep.run_pilot, [], []

    def killed(config, store, *, task=None):
        if len(done) == 13:
            raise KeyboardInterrupt
        done.append(config.key)
        return pilot(config, store, task=task)

    plan = {"density": 0.1, "pilots": 8, "store": Store(tmp_path), "show": False}
    monkeypatch.setattr(sweep, "run_pilot", killed)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(tiny_task.task(), say=said.append, **plan)
    monkeypatch.setattr(sweep, "run_pilot", pilot)
    before, again = [line for line in said if "runs up to" in line], []
    finished = run_campaign(tiny_task.task(), say=again.append, **plan)
    assert [line for line in again if "runs up to" in line][: len(before)] == before
    assert len(before) == 4
    assert [record["key"] for record in finished.records[:13]] == done


@pytest.mark.parametrize(
    ("is_sure", "why"),
    [(True, "the decision is sure"), (False, "no further pilot promises to settle it")],
)
def test_it_stops_early_where_the_advice_names_no_next_pilot(is_sure, why, tmp_path, monkeypatch):
    asked = []

    def sure(columns, **more):
        asked.append(more["draws"])
        return SimpleNamespace(next=None, probability={"keep": 0.97 if is_sure else 0.5})

    monkeypatch.setattr("probcomp.regime.planner.advise", sure)
    done = run_campaign(
        SOURCE, density=0.1, pilots=9, store=Store(tmp_path), engine="serial", stop_early=True
    )
    assert (len(done.runs), done.stopped, asked) == (10, why, [LIGHT, None])


def test_a_plan_is_asked_and_told_without_any_engine():
    """What another engine does: run what is proposed, in any order, and tell."""
    planner = Planner(SOURCE, density=0.1, pilots=6, batch=1)
    assert planner.stopped == ""
    first = planner.propose()
    cells = dict.fromkeys((c.recipe.epochs, c.density) for c in first)
    assert list(cells) == start_design(tiny_task.task(), 0.1)
    records = [done_record(config) for config in first]
    planner.tell(records[1:][::-1])
    with pytest.raises(InputError, match="1 proposed pilots have not been told"):
        planner.propose()
    planner.tell(records[:1])
    with pytest.raises(InputError, match="was not proposed, or is told already"):
        planner.tell(records[:1])
    (one, two) = planner.propose()
    assert [(c.recipe.epochs, c.density, c.dense_seed) for c in (one, two)] == planner.runs[-2:]
    planner.tell([done_record(config) for config in (one, two)])
    planner.tell(map(done_record, planner.propose()))
    assert planner.propose() == []
    assert planner.stopped == "all 12 runs were made"
    assert len(planner.records) == 12


def answered(planner, error):
    """Run a plan to its end; ``error`` gives what a configuration shows."""
    while configs := planner.propose():
        planner.tell(done_record(c, error(c)) for c in configs)
    return planner


def test_cells_whose_runs_differ_much_are_run_again_with_new_seeds():
    """Seeds differ by half at the density asked for, and hardly elsewhere; levels are alike."""

    def loud(config):
        luck = [0.7, 1.6, 0.8, 1.4, 1.0, 1.2][config.dense_seed]
        return 0.2 * luck if config.density == 0.1 else 0.1 * (1 + 0.001 * config.dense_seed)

    planner = answered(Planner(SOURCE, density=0.1, pilots=9), loud)
    later = planner.runs[8:]
    assert len(later) == 10
    assert sum(density == 0.1 for _, density, _ in later) >= 6
    assert max(seed for *_, seed in planner.runs) >= 2
    for cell in {run[:2] for run in planner.runs}:  # one after the other
        seeds = [seed for value, density, seed in planner.runs if (value, density) == cell]
        assert seeds == list(range(len(seeds)))


def test_new_seeds_follow_those_of_the_task_and_a_cell_has_only_so_many():
    task = dataclasses.replace(tiny_task.task(), dense_seeds=(4, 2))
    assert [nth_seed(task, number) for number in range(4)] == [4, 2, 5, 6]
    planner = Planner(task, density=0.1, pilots=40, most_seeds=3)
    answered(planner, lambda config: 0.1)
    assert planner.stopped == "every cell of the task was run with 3 dense seeds"
    assert len(set(planner.runs)) == len(planner.runs) == 27


def test_a_density_between_those_of_the_task_is_planned_for():
    planner = answered(Planner(SOURCE, density=0.2, pilots=6), lambda config: config.density)
    assert len(planner.runs) == 12
    assert {density for _, density, _ in planner.runs} <= {0.1, 0.3, 0.8}


def done_record(config, error=0.1):
    run = {
        "density_realised": config.density, "test_error": error, "train_error": 0.0,
        "pruned_test_error": 0.5, "wall_s": 2.0,
    }  # fmt: skip
    pair = {"lmc": -0.1, "cka_softmax": 0.9, "agreement": 0.9, "wall_s": 1.0}
    dense = {"test_error": 0.1, "wall_s": 1.0, "steps": 7, "continued_from": 0}
    return {
        "key": config.key, "status": "done", "runs": [run], "pairs": [pair], "dense": dense,
        "config": config.to_json(),
    }  # fmt: skip
