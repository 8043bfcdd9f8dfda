"""The benchmark of Bayesian compression: its fronts, its records, and a small run of it all."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a helper of the benchmark, as the script itself does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def record(method: str, seed: int, error: float, size: int) -> dict:
    return {
        "config": {
            "network": "lenet-300-100",
            "data": "mnist",
            "method": method,
            "label": "own",
            "seed": seed,
            "epochs": {"dense": 6, "method": 16},
        },
        "sizes": "9-8-7",
        "dense_error": 1.5,
        "error": error,
        "coding": {"error": error, "bytes": size, "file_ratio": 10_000 / size, "csr_bytes": size},
        "params_ratio": 10.0,
        "architecture_ratio": 5.0,
        "macs_ratio": 20.0,
        "precision": None,
        "bits_back": {"data": 1.0, "weights": 2.0, "mask": 4.0, "of": "kept"},
        "nonzero": 40,
        "regularity": {
            "a": {"nonzero": 30, "clusters": 4, "singletons": 1, "fill_16": 0.5},
            "b": {"nonzero": 10, "clusters": 2, "singletons": 0, "fill_16": 0.1},
        },
        "seconds": {"cpu": 3.0},
    }


def test_fronts_hold_what_no_other_point_beats(module):
    report = module("_bayes_report")
    points = {
        ("a", ""): (1.0, 100.0),
        ("b", ""): (2.0, 50.0),
        ("c", ""): (2.0, 60.0),  # b is as good and smaller
        ("d", ""): (3.0, 40.0),
        ("e", ""): (3.0, 40.0),  # ties stay
    }
    assert report.on_front(points) == [("d", ""), ("e", ""), ("b", ""), ("a", "")]


def test_seeds_are_averaged(module):
    report = module("_bayes_report")
    records = [record("a", 0, 1.0, 100), record("a", 1, 2.0, 300), record("b", 0, 3.0, 400)]
    (group,) = report.fronts(records).values()
    first = group["points"][0]
    assert (first["seeds"], first["error"], first["bytes"]) == (2, 1.5, 200)
    assert first["coded_error_range"] == [1.0, 2.0]
    assert first["bits_back"] == 7.0
    # Ratios are averaged as sizes: 10,000 over the mean size.
    assert first["file_ratio"] == pytest.approx(10_000 / 200)
    assert group["front_bytes"] == ["a own"]
    lines = report.table(records)
    assert any(line.startswith("a ") and line.endswith("9-8-7 *bm") for line in lines)
    assert any("recalled, not verified" in line for line in lines)


def test_a_second_file_is_averaged_where_every_run_has_one(module):
    report = module("_bayes_report")
    records = [record("a", 0, 1.0, 100), record("a", 1, 2.0, 300)]
    assert report.summary(records)["finer"] is None
    records[0]["finer"] = {"error": 0.5, "bytes": 200, "file_ratio": 50.0}
    assert report.summary(records)["finer"] is None
    records[1]["finer"] = {"error": 1.5, "bytes": 400, "file_ratio": 25.0}
    found = report.summary(records)["finer"]
    (line,) = [line for line in report.table(records) if "in a finer file" in line]
    assert line.split()[-3:] == ["1.00", "300", "33"]
    assert found == {"coded_error": 1.0, "bytes": 300, "file_ratio": pytest.approx(100 / 3)}


def test_couplings_are_compared_at_the_same_point(module):
    records = [record("turbo-vbi", 0, 1.0, 100), record("turbo-vbi, coupling 0", 0, 1.2, 90)]
    records[1]["regularity"]["a"]["clusters"] = 10
    (row,) = module("_bayes_report").couplings(records)
    assert row["clusters_ratio"] == 6 / 12
    assert row["with"]["fill_16"] == pytest.approx((30 * 0.5 + 10 * 0.1) / 40)
    assert row["fill_ratio"] == 1


def test_the_picture_is_drawn(module, tmp_path):
    module("_bayes_report").picture([record("turbo-vbi", 0, 1.0, 100)], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_published_rows_agree_with_the_architecture(module):
    weights = {"lenet-300-100": 266_200, "lenet-5-caffe": 430_500}
    for network, _, _, kept, ratio, *_ in module("_bayes_published").PUBLISHED:
        if not ratio:
            continue
        a, b, c, *d = (int(part) for part in kept.split("-"))
        small = a * b + b * c + 10 * c if not d else 25 * (a + a * b) + c * d[0] + 10 * d[0]
        assert weights[network] / small == pytest.approx(ratio, abs=0.051)  # stated to a tenth


def test_every_method_has_settings_of_its_type(module):
    settings = module("_bayes_settings")
    for _, (_, budget, make) in settings.points(None, None):
        made = make(6, 60_000)
        teacher = made["refit_teacher"] if isinstance(made, dict) else made.refit_teacher
        assert teacher == settings.TEACHER  # the same recovery for all
        assert budget is None or budget.startswith("params=")


def test_every_method_passes_over_any_data_as_often(module):
    settings = module("_bayes_settings")
    for samples, batches in ((60_000, 235), (50_000, 196), (1_437, 23)):
        made = settings.turbo()(16, samples)
        passes = (made.rounds * made.steps + made.refit_steps) / batches
        assert passes == pytest.approx(16, abs=made.rounds / batches)  # whole batches in a round


def test_pruning_in_stages_is_given_no_checkpoint(module, monkeypatch, tmp_path):
    settings, running = module("_bayes_settings"), module("_bayes_run")
    given = []

    def stop(*_, checkpoint, **__):
        given.append(checkpoint)
        raise InterruptedError

    monkeypatch.setattr(running, "compress", stop)
    for method in ("iterative-magnitude", "turbo-vbi"):
        (_, (_, budget, make)), *_ = settings.points([method], None)
        with pytest.raises(InterruptedError):
            running.execute(
                "lenet-300-100", None, None, method, budget, make(4, 60_000), 0, 4, tmp_path
            )
    assert given == [None, tmp_path]


@pytest.mark.slow
def test_a_quick_run_writes_records_and_resumes(tmp_path):
    command = [sys.executable, str(FOLDER / "bayes.py"), "--quick", "--data", "digits"]
    command += [
        "--methods",
        "magnitude",
        "--runs",
        str(tmp_path),
        "--out",
        str(tmp_path / "o.json"),
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "magnitude (2 %) seed 0" in first.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stderr == ""  # nothing was left to run
    assert again.stdout == first.stdout
    result = json.loads((tmp_path / "o.json").read_text())
    (run,) = result["runs"]
    assert run["coding"]["bytes"] * run["coding"]["file_ratio"] == pytest.approx(4 * 266_610)
    assert (tmp_path / "o.png").is_file()
