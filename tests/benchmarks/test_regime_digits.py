"""The sweep of digits: how advice is counted, tables that grow by seeds, what the record holds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_advice_is_counted_at_the_densities_that_were_asked(module, sweep_of_digits):
    """A stand-in for the model expects least at 20 epochs; the reference has it at 12."""
    from types import SimpleNamespace

    from probcomp.regime.table import read_runs

    digits, kept = module("_regime_digits"), module("_regime_reference")
    task, rows = sweep_of_digits
    levels, loads = np.array(task.levels), np.array(task.densities)
    generator = np.random.default_rng(0)
    seen = 0.05 + 0.001 * abs(levels - 12)[:, None] + 1e-5 * generator.normal(size=(7, 9))
    grid = kept.Replicates(loads, levels, 6 * (np.arange(9),), 6 * (seen,))

    class Model:
        convergence = "converged"

        def predict(self, settings, load):
            error = np.tile(0.05 + 0.001 * abs(settings[:, 0] - 20), (50, 1))
            return SimpleNamespace(error=error * np.linspace(0.9, 1.1, 50)[:, None])

    class Fits:
        def fit(self, pilots, name, design):
            names.append(name)
            return Model(), 1.0

    names = []
    judged = digits.Judged(grid, module("_regime_regret").Reference(grid.errors), Fits())
    some = [key for key in rows if key[1] in (0.04, 0.4) and key[2] == 0]
    columns = {
        "epochs": [v for v, *_ in some], "density": [d for _, d, _ in some],
        "test_error": [rows[key]["test_error"] for key in some],
        "lmc": [-0.1] * len(some), "cka": [0.9] * len(some),
    }  # fmt: skip
    pilots = read_runs(columns)
    judged.fit("nine", 0, pilots)
    judged.fit("campaign", 3, pilots, 0.08)
    assert names == ["nine0", "campaign3_0.08"]
    assert len(judged.chosen["nine"]) == 6
    assert judged.chosen["campaign"] == [(3, 2, 3)]
    assert judged.summary("campaign")["regret_points"] == pytest.approx(0.8, abs=0.01)
    assert judged.summary("nine", 5)["regret_points"] == pytest.approx(0.8, abs=0.01)
    assert judged.rows[1]["best_epochs"] == [(0.08, 20.0)]


def test_each_campaign_begins_with_seeds_of_its_own(module):
    orders = module("_regime_digits").orders([4, 5, 6, 7, 8])
    assert orders == [[4, 5, 6, 7, 8], [6, 7, 8, 4, 5]]


def test_a_sweep_adds_its_seeds_to_the_table_and_replaces_those_run_again(
    module, tmp_path, monkeypatch
):
    regime = module("_regime_digits")
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


def test_what_the_tutorial_reads_is_in_the_record():
    """The last part of the tutorial prints figures of the record by their names."""
    text = (FOLDER.parent / "tutorials" / "07_which_regime_am_i_in.py").read_text()
    part = text[text.index('"regime_digits.json"') :]
    names = re.findall(r'^    \("(\w+)", "', part, re.MULTILINE)
    assert len(names) >= 5
    record = json.loads((FOLDER / "results" / "regime_digits.json").read_text())["result"]
    for name in names:
        assert record["designs"][name] > 0
        assert len(record["regret"][name]["regret_90"]) == 2
