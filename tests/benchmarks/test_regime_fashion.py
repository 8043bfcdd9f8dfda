"""The second task: judged from its tables, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.tiny import TINY

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fashion(module, tmp_path, monkeypatch):
    """The second task as a tiny one, its tables made up: best at 8, and at 4 where most is kept."""
    import csv

    from probcomp.regime.records import COLUMNS

    found, path = module("_regime_fashion"), tmp_path / "tiny.py"
    levels, densities = (4, 8, 16), (0.1, 0.2, 0.5)
    text = TINY.replace("KNOB", "'batch_size'").replace("LEVELS", repr(levels))
    path.write_text(text.replace("(0.2, 0.5)", repr(densities)))
    monkeypatch.setattr(found, "FASHION", str(path))
    monkeypatch.setattr(found, "RUNS", tmp_path / "runs.csv")
    monkeypatch.setattr(found, "REFERENCE", tmp_path / "reference.csv")
    monkeypatch.setenv("PROBCOMP_DATA", str(tmp_path))
    generator = np.random.default_rng(0)

    def rows(seeds):
        for seed in seeds:
            for density in densities:
                for level in levels:
                    away = abs(np.log2(level / (4 if density == 0.5 else 8)))
                    error = 0.1 + 0.02 * away + 1e-4 * generator.normal()
                    yield seed, density, level, error

    def write(path, names, values):
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([names, *values])

    shared = ("dense_seed", "density", "batch_size", "test_error")
    rest = {
        "density_realised": 0.1, "train_error": 0.0, "pruned_test_error": 0.5, "wall_s": 2.0,
        "lmc": -0.1, "cka": 0.9, "agreement": 0.9, "dense_test_error": 0.1,
    }  # fmt: skip
    order, table = ("batch_size", *COLUMNS), []
    for row in rows(range(4)):
        values = {**dict(zip(shared, row)), **rest}
        table.append([values[name] for name in order])
    write(found.RUNS, order, table)
    write(found.REFERENCE, shared, rows(range(100, 109)))
    return found


class LineOfMeans:
    """In place of the fitted model: expects what it was told at each level, within a tenth."""

    convergence = type("Gates", (), {"ok": True, "__str__": lambda self: "converged"})()

    def __init__(self, table):
        self.table = table

    def predict(self, settings, load):
        from types import SimpleNamespace

        here = np.isclose(self.table.load, load[0])
        told = [
            self.table.error[here & (self.table.settings[:, 0] == v)].mean()
            if (here & (self.table.settings[:, 0] == v)).any()
            else 0.12
            for v in settings[:, 0]
        ]
        spread = 1 + 1e-3 * np.linspace(-1, 1, 41)[:, None]
        return SimpleNamespace(error=np.array(told) * spread)


def test_a_second_task_is_judged_from_its_tables(fashion, monkeypatch):
    monkeypatch.setattr(fashion, "TWICE", 6)  # no longer than needed to be there

    class Fits:
        def fit(self, pilots, name, design):
            names.append(name)
            return LineOfMeans(pilots), 1.0

    names = []
    said = fashion.fashion(2, Fits())
    assert names == [f"fashion{d}_{load:g}" for d in (0, 1) for load in (0.1, 0.2, 0.5)]
    assert said["replicates_of_the_reference"] == {"0.1": 9, "0.2": 9, "0.5": 9}
    assert said["runs_of_a_campaign"] == [18]
    assert {run[2] for row in said["each"] for run in row["plan"]} <= {0, 1, 2, 3}
    assert said["regret"]["at_density"]["regret_points"] == pytest.approx(0, abs=0.02)
    # The recipe's 8 is right but where most is kept; the coldest is 1 and 2 doublings off.
    assert said["regret"]["as_it_is"]["regret_points"] == pytest.approx(2 / 3, abs=0.02)
    assert said["regret"]["coldest"]["regret_points"] == pytest.approx((2 + 2 + 4) / 3, abs=0.02)
    assert said["regret"]["random"]["regret_points"] == pytest.approx((4 + 4 + 6) / 9, abs=0.02)
    assert said["decisions"]["of_the_coldest"]["decisions"] == 6
    assert said["decisions"]["of_all_levels"]["decisions"] == 18
    assert said["surface"]["0.5"]["probability_of_being_best"]["4"] == 1
    json.dumps(said)  # what the record holds are plain values


def test_decisions_are_counted_against_what_the_reference_gives(fashion, module):
    from probcomp.regime.knobs import KNOWN

    generator = np.random.default_rng(0)
    truth = np.array([0.10, 0.12, 0.14])  # of batch sizes, the smallest of which is the hottest
    errors = truth[:, None] + 1e-4 * generator.normal(size=(3, 20))
    reference = module("_regime_regret").Reference([errors])
    knob, levels = KNOWN["batch_size"], np.array([4.0, 8, 16])
    surely = {"raise": [0.9, 0.05, 0.05], "lower": [0.1, 0.85, 0.05], "keep": [0.0, 0.1, 0.9]}

    def met(*said, converged=True):
        about = {"load": 0, "converged": converged}
        rows = [{**about, "at": at, "probability": np.array(p)} for at, p in said]
        return fashion.decisions_met(rows, reference, levels, knob)

    assert fashion.coldest(levels, knob) == 2
    found = met((2, surely["raise"]), (1, surely["lower"]), (0, surely["raise"]))
    assert (found["sure"], found["keep_is_right"]) == (1, pytest.approx(1 / 3))
    assert (found["right"], found["wrong"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["brier"] == pytest.approx(
        np.mean([0.1**2 + 2 * 0.05**2, 0.9**2 + 0.85**2 + 0.05**2, 0.9**2 + 0.05**2 + 0.95**2])
    )
    unsure = met((2, [0.2, 0.5, 0.3]), (0, surely["keep"]))
    assert (unsure["sure"], unsure["right"], unsure["wrong"]) == (0.5, 1, 0)
    assert (unsure["right_of_all"], unsure["wrong_of_all"]) == (0.5, 0.5)
    failed = met((2, surely["raise"]), converged=False)
    assert (failed["sure"], failed["right_of_all"], "right" in failed) == (0, 1, False)


def test_the_second_task_refuses_what_it_cannot_judge(fashion, monkeypatch):
    from probcomp.errors import InputError

    text = fashion.REFERENCE.read_text()
    fashion.REFERENCE.write_text(text + text.splitlines()[1].replace("100,", "3,", 1) + "\n")
    with pytest.raises(InputError, match="lacks cells"):
        fashion.fashion(1, None)
    fashion.REFERENCE.write_text(text.replace("\n100,", "\n3,"))
    with pytest.raises(InputError, match=r"share dense seeds: \[3\]"):
        fashion.fashion(1, None)
    fashion.RUNS.unlink()
    with pytest.raises(InputError, match=r"runs.csv is missing; run"):
        fashion.fashion(1, None)
    with pytest.raises(InputError, match="from 100 on are the reference's"):
        fashion.fashion_sweep([100])
    fashion.RUNS.write_text(text)
    monkeypatch.delenv("PROBCOMP_DATA")
    with pytest.raises(InputError, match="set PROBCOMP_DATA"):
        fashion.fashion(1, None)


def test_the_second_task_says_which_data_it_lacks(monkeypatch, tmp_path):
    from probcomp.errors import InputError
    from probcomp.regime.tasks import load_task

    path = str(FOLDER / "fashion_task.py")
    load_task.cache_clear()
    monkeypatch.delenv("PROBCOMP_DATA", raising=False)
    with pytest.raises(InputError, match="set PROBCOMP_DATA to the directory that contains"):
        load_task(path)
    monkeypatch.setenv("PROBCOMP_DATA", str(tmp_path))
    with pytest.raises(InputError, match="train-images"):
        load_task(path)


def test_a_sweep_of_the_second_task_adds_the_seeds_that_the_table_lacks(fashion, monkeypatch):
    asked, made = [], fashion.grid_pilots

    def once(source, seed):
        asked.append(seed)
        return made(source, seed)

    monkeypatch.setattr(fashion, "grid_pilots", once)
    said = fashion.fashion_sweep([2, 4])
    assert asked == [4]
    assert (said["dense_seeds"], said["rows_of_the_table"]) == ([0, 1, 2, 3, 4], 45)
