"""The regime benchmark: regret that noise does not bias, and a table that grows by seeds."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a part of the benchmark, as the script itself does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("regime", "regime_cost", "_regime_regret"):  # a name that others may use
        sys.modules.pop(name, None)


def test_regret_by_hand(module):
    regret = module("_regime_regret")
    errors = np.array([[0.10, 0.20, 0.30], [0.10, 0.10, 0.10], [0.00, 0.20, 0.20]])
    assert regret.plain(errors, 0) == pytest.approx(0.1)
    # The others name level 1 each time (twice tied with level 2; the first is taken).
    np.testing.assert_allclose(regret.crossed(errors, 0), [0.0, 0.1, 0.2])


def test_crossed_regret_is_zero_where_all_levels_are_equal_and_plain_is_not(module):
    """Seven levels, five replicates, no difference: a perfect adviser regrets 1.35 sd / sqrt(5)."""
    regret = module("_regime_regret")
    adviser, random = regret.Regrets(), regret.Regrets()
    generator = np.random.default_rng(0)
    for _ in range(2000):
        errors = 0.01 * generator.normal(size=(7, 5))
        adviser.add(errors, np.arange(5), 3)
        random.add_all(errors, np.arange(5))
    for found in (adviser.summary(), random.summary()):
        assert found["crossed_points"] == pytest.approx(0, abs=0.04)
        assert found["plain_points"] == pytest.approx(1.352 / np.sqrt(5), abs=0.03)


def test_the_standard_error_counts_replicates_not_designs(module):
    regret = module("_regime_regret")
    once, often = regret.Regrets(), regret.Regrets()
    errors = np.random.default_rng(1).normal(size=(4, 6))
    worst = int(errors.mean(1).argmax())
    once.add(errors, np.arange(6), worst)
    for _ in range(50):
        often.add(errors, np.arange(6), worst)
    assert once.summary() == pytest.approx(often.summary())
    assert once.summary()["crossed_standard_error"] > 0


def test_a_sweep_adds_its_seeds_to_the_table_and_replaces_those_run_again(
    module, tmp_path, monkeypatch
):
    regime = module("regime")
    monkeypatch.setattr(regime, "DIGITS", tmp_path / "runs.csv")
    error = {"value": 0.1}

    def configs(task):
        return [Config(density=d) for d in (0.2, 0.1)]

    def records(chosen, store, *, jobs):
        run = {
            "density_realised": 0.1, "test_error": error["value"], "train_error": 0.0,
            "pruned_test_error": 0.5, "wall_s": 2.0,
        }  # fmt: skip
        pair = {"lmc": -0.1, "cka_softmax": 0.9, "agreement": 0.9, "wall_s": 1.0}
        return [
            {
                "status": "done", "runs": [run], "pairs": [pair], "dense": {"test_error": 0.1},
                "config": {
                    "recipe": {"epochs": 3.0}, "dense_seed": c.dense_seed, "density": c.density,
                },
            }
            for c in chosen
        ]  # fmt: skip

    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        density: float
        dense_seed: int = 0

    monkeypatch.setattr(regime, "grid_configs", configs)
    monkeypatch.setattr(regime, "run_pilots", records)
    assert regime.sweep(tmp_path, 1, [1])["rows_of_the_table"] == 2
    error["value"] = 0.2
    said = regime.sweep(tmp_path, 1, [0, 1])
    assert said["rows_of_the_table"] == 4
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
    order = [(row["dense_seed"], row["density"]) for row in rows]
    assert order == [("0", "0.1"), ("0", "0.2"), ("1", "0.1"), ("1", "0.2")]
    assert {row["test_error"] for row in rows} == {"0.2"}


def test_costs_that_are_not_measured_anew_are_kept(module, tmp_path, monkeypatch):
    cost = module("regime_cost")
    out = tmp_path / "cost.json"
    out.write_text('{"result": {"9 pilots": {"wall_seconds": 1.0}, "144 cells": {}}}')
    monkeypatch.setattr(cost, "nine_runs", lambda: {"wall_seconds": 2.0})
    monkeypatch.setattr(sys, "argv", ["regime_cost.py", "--only", "runs", "--out", str(out)])
    cost.main()
    found = json.loads(out.read_text())["result"]
    assert found == {"9 pilots": {"wall_seconds": 2.0}, "144 cells": {}}
