"""Pilots: what they record, that they repeat themselves, and what they share."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.regime import read_runs
from probcomp.regime.pilots import PilotConfig, dense_network, error_of, pilot_configs, run_pilot
from probcomp.regime.recipe import Recipe
from probcomp.regime.records import pilot_columns, write_table
from probcomp.regime.store import Store
from probcomp.regime.sweep import grid_configs, run_pilots

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


@pytest.fixture
def config():
    return pilot_configs(SOURCE, 2, 0.3)[0]


def stripped(value):
    """A record without what depends on the clock and on where a dense run was picked up."""
    if isinstance(value, dict):
        unstable = ("wall_s", "continued_from")
        return {k: stripped(v) for k, v in value.items() if k not in unstable}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def test_a_pilot_has_one_record_a_model_and_one_a_pair(config):
    three = dataclasses.replace(config, retrain_seeds=(0, 1, 2))
    record = run_pilot(three)
    assert record["status"] == "done"
    assert [run["retrain_seed"] for run in record["runs"]] == [0, 1, 2]
    assert [pair["retrain_seeds"] for pair in record["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    kept, weights = 0.3, 6 * 12 + 12 * 12
    assert record["runs"][0]["density_realised"] == pytest.approx(kept, abs=1 / weights)
    layers = record["runs"][0]["kept_by_layer"]
    assert set(layers) == {"0.weight", "4.weight"}
    assert all(share == pytest.approx(kept, abs=1 / 72) for share in layers.values())
    assert record["runs"][0]["device"] == "cpu"
    assert "ln_trace" not in record["dense"]

    for pair in record["pairs"]:
        assert -1 <= pair["lmc"] <= 1
        assert 0 <= pair["cka_softmax"] <= 1
        assert len(pair["lmc_curve"]) == 11
    ends = record["pairs"][0]["lmc_curve"]
    # Ends of the path have their batch-norm statistics estimated anew, on the training set.
    assert abs(ends[0] - record["runs"][0]["train_error"]) < 0.1
    assert len({run["test_error"] for run in record["runs"]}) >= 1


def test_curvature_is_measured_where_the_task_asks_for_it_and_is_no_cost_of_training(monkeypatch):
    import probcomp.regime.pilots as pilots

    clock = {"now": 0.0}

    def measures(model, task):
        clock["now"] += 1000
        return {"ln_top": 1.5}

    monkeypatch.setattr(pilots.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(pilots, "dense_measures", measures)
    task = dataclasses.replace(pilot_task(), measure=True)
    (config, *_) = pilot_configs(task, 1, 0.3)
    about = dense_network(config, task, None)[1]
    assert about["ln_top"] == 1.5
    assert about["wall_s"] == 0
    # A record without them is no record of this task.
    assert config.dense_key != pilot_configs(SOURCE, 1, 0.3)[0].dense_key


def test_it_is_a_function_of_its_configuration(config, tmp_path):
    alone = stripped(run_pilot(config))
    stored = Store(tmp_path)
    assert stripped(run_pilot(config, stored)) == alone
    again = PilotConfig.of(config.to_json())
    assert again == config
    assert stripped(run_pilot(again, stored)) == alone
    # The same from a checkpoint of the same run at an earlier stop.
    other = Store(tmp_path / "other")
    run_pilot(pilot_configs(SOURCE, 1, 0.8)[0], other)
    assert stripped(run_pilot(config, other)) == alone
    about = other.dense.get(config.dense_key)
    assert about is not None
    assert about["continued_from"] == 120 // 16


def test_two_dense_seeds_are_retrained_with_batches_of_their_own(config, monkeypatch):
    import probcomp.regime.pilots as pilots

    real, trained = pilots.train, []

    def watch(*arguments, **options):
        trained.append((options["seed"], options["masks"] is not None if "masks" in options else 0))
        return real(*arguments, **options)

    monkeypatch.setattr(pilots, "train", watch)
    for dense_seed in (0, 1):
        run_pilot(dataclasses.replace(config, dense_seed=dense_seed))
    retrained = [seed for seed, masked in trained if masked]
    assert len(set(retrained)) == 4  # two dense seeds, two retrain seeds
    assert not set(retrained) & {seed for seed, masked in trained if not masked}
    # Settings and densities of one dense seed are compared under the same batches.
    for other in (pilot_configs(SOURCE, 1, 0.3)[0], pilot_configs(SOURCE, 2, 0.8)[0]):
        assert other.randomness(1) == config.randomness(1) == retrained[1]


def test_a_record_is_kept_under_what_its_retraining_drew(config, monkeypatch):
    before = config.key, config.run_key(0)
    monkeypatch.setattr(PilotConfig, "randomness", lambda self, seed: 1_000_003 + seed)
    assert config.key != before[0]
    assert config.run_key(0) != before[1]


def test_densities_share_the_dense_network_and_settings_do_not(tmp_path):
    store = Store(tmp_path)
    first, second = (pilot_configs(SOURCE, 2, d)[0] for d in (0.1, 0.8))
    assert first.dense_key == second.dense_key
    assert first.key != second.key
    run_pilot(first, store)
    before = store.weights("dense", first.trajectory_key, first.dense_key).stat().st_mtime_ns
    run_pilot(second, store)
    assert (
        store.weights("dense", first.trajectory_key, first.dense_key).stat().st_mtime_ns == before
    )
    keys = {c.dense_key for level in (1, 2) for c in pilot_configs(SOURCE, level, 0.1)}
    assert len(keys) == 4  # two levels, two seeds


def test_a_run_that_is_recorded_is_not_trained_again(config, tmp_path, monkeypatch):
    store = Store(tmp_path)
    whole = run_pilot(config, store)
    store.pilots.folder.joinpath(f"{config.key}.json").unlink()
    # As if the sweep had been killed after the first retrained model.
    assert not store.weights("runs", config.run_key(0)).exists()
    import probcomp.regime.pilots as pilots

    trained = []
    real = pilots.train
    monkeypatch.setattr(pilots, "train", lambda *a, **k: trained.append(k["seed"]) or real(*a, **k))
    for seed in config.retrain_seeds:
        (tmp_path / "runs" / f"{config.run_key(seed)}.json").unlink()
    assert stripped(run_pilot(config, store)) == stripped(whole)
    assert len(trained) == len(config.retrain_seeds)  # the dense network came from its checkpoint


def test_a_half_done_pilot_goes_on_where_it_was(config, tmp_path, monkeypatch):
    import probcomp.regime.pilots as pilots

    store = Store(tmp_path)
    real, calls = pilots.train, []

    def stop_at_third(*arguments, **options):
        calls.append(options["seed"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(pilots, "train", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_pilot(config, store)
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1
    record = run_pilot(config, store)
    assert len(calls) == 4  # dense, first, the one that was lost, and that again
    monkeypatch.undo()
    assert stripped(record) == stripped(run_pilot(config))


def test_a_changed_task_is_another_pilot(config):
    task = pilot_task()
    changed = dataclasses.replace(task, train=(task.train[0] + 1, task.train[1]))
    assert changed.fingerprint() != task.fingerprint()
    with pytest.raises(InputError, match="has changed"):
        run_pilot(config, task=changed)


def test_a_divergence_is_recorded_and_left_out_of_the_table(tmp_path):
    task = pilot_task()
    hot = dataclasses.replace(task, retrain=dataclasses.replace(task.retrain, lr=1e30))
    (config, *_) = pilot_configs(hot, 2, 0.3)
    record = run_pilot(config, Store(tmp_path), task=hot)
    assert record["status"] == "diverged"
    assert "lower lr" in record["reason"]
    with pytest.raises(InputError, match="no pilot ended well"):
        pilot_columns([record], "epochs")


@pytest.mark.parametrize("lr", [1e30, 3e38])
def test_a_network_lost_in_its_last_step_is_a_record_and_other_pilots_go_on(tmp_path, lr):
    """The loss is looked at before each step, and none follows the last."""
    task = pilot_task()
    one_step = Recipe(epochs=1, horizon=1, lr=lr, batch_size=len(task.train[0]))
    hot = dataclasses.replace(task, retrain=one_step)
    configs = grid_configs(hot, [1, 2], [0.3])
    store = Store(tmp_path)
    records = run_pilots(configs, store, task=hot)
    assert [record["status"] for record in records] == ["diverged"] * 4
    assert all("lower" in record["reason"] and "lr" in record["reason"] for record in records)
    # The same command again reads what was written.
    assert run_pilots(configs, store, task=hot) == records


def test_a_dense_network_lost_in_its_last_step_leaves_no_checkpoint(tmp_path):
    task = pilot_task()
    one_step = Recipe(epochs=1, horizon=1, lr=3e38, batch_size=len(task.train[0]))
    hot = dataclasses.replace(task, recipe=one_step, levels=(0.5, 1))
    config = pilot_configs(hot, 1, 0.3)[0]
    store = Store(tmp_path)
    record = run_pilot(config, store, task=hot)
    assert record["status"] == "diverged"
    assert store.dense.get(config.dense_key) is None


def test_networks_that_say_the_same_of_every_sample_are_lost():
    """Their similarity is not defined, and that ended the sweep."""
    task = dataclasses.replace(pilot_task(), build=_blind)
    config = pilot_configs(task, 1, 0.1)[0]
    record = run_pilot(config, task=task)
    assert record["status"] == "diverged"
    assert "same logits; lower the retraining's lr, or keep more weights" in record["reason"]


def _blind():
    """Units that are always off, and stay so for want of a gradient."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias -= 1e3
    return model


def test_records_become_a_run_table(tmp_path):
    store = Store(tmp_path)
    configs = grid_configs(SOURCE)
    records = run_pilots(configs, store, engine="serial")
    assert len(records) == 3 * 3 * 2
    table = read_runs(pilot_columns(records, "epochs"))
    assert len(table) == 18
    assert len(np.unique(table.cells)) == 9
    assert [knob.name for knob in table.knobs] == ["epochs"]
    write_table(records, "epochs", tmp_path / "runs.csv")
    again = read_runs(tmp_path / "runs.csv")
    np.testing.assert_allclose(again.error, table.error, rtol=1e-5)
    np.testing.assert_allclose(again.similarity, table.similarity, rtol=1e-5)


def test_the_dense_errors_are_those_of_the_network(config):
    task = pilot_task()
    model, about = dense_network(config, task, None)
    x, y = task.test
    with torch.no_grad():
        wrong = (model(x).argmax(1) != y).double().mean().item()
    assert about["test_error"] == pytest.approx(wrong)
    assert error_of(model, task.test) == pytest.approx(wrong)


def test_a_configuration_with_missing_parts_is_refused(config):
    values = config.to_json()
    del values["recipe"]
    with pytest.raises(InputError, match="recipe"):
        PilotConfig.of(values)


def pilot_task():
    from probcomp.regime.tasks import load_task

    return load_task(SOURCE)
