"""The benchmark of couplings: what it holds out, and one small row."""

import importlib
from pathlib import Path

import pytest
import torch

from probcomp.data import Data

FOLDER = Path(__file__).parents[2] / "benchmarks"
CLASSES = 10


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("coupling")


def images(count: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 28, 28, generator=generator)
    y = torch.arange(count) % CLASSES
    return Data((x, y), (x[:20], y[:20]), "some", CLASSES)


def test_what_is_held_out_is_not_trained_on(module, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_: images(120))
    monkeypatch.setattr(module, "HELD_OUT", 30)
    found = module.parts("some", Path())
    pixels = [part[0].flatten(1)[:, 0] for part in (found.train, found.test)]
    assert [len(p) for p in pixels] == [90, 30]
    assert not set(pixels[0].tolist()) & set(pixels[1].tolist())


def test_the_test_part_trains_on_everything(module, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_: images(120))
    found = module.parts("some", Path(), "test")
    assert [len(found.train[0]), len(found.test[0])] == [120, 20]


@pytest.mark.parametrize("given", ["1", "0.5:2"])
def test_a_row_states_regularity_at_the_target(module, monkeypatch, tmp_path, given):
    monkeypatch.setattr(module, "SCHEDULE", {"rounds": 2, "steps": 1, "refit_steps": 1})
    row = module.run(given, images(80), 0, tmp_path, "some-held")
    total = 266_610  # biases included
    assert row["nonzero"] <= module.TARGET * total
    assert 0 < row["singletons"] <= row["clusters"] <= row["nonzero"]
    assert 0 < row["fill_16"] <= 1
    assert set(row["units"].values()) != {0}
    assert row["error"] == 100 * len(row["wrong"]) / 20
    assert (tmp_path / "dense-lenet-300-100-some-held-80-6-0.safetensors").is_file()


def row(coupling: str, seed: int, wrong: list[int], clusters: int = 10) -> dict:
    return {
        "coupling": coupling,
        "seed": seed,
        "wrong": wrong,
        "samples": 100,
        "error": float(len(wrong)),
        "clusters": clusters,
        "fill_16": clusters / 100,
    }


def test_couplings_are_compared_image_by_image_over_shared_seeds(module):
    rows = [
        row("0", 0, [1, 2]),
        row("0", 1, [1]),
        row("3", 0, [1, 2, 3, 4], 4),
        row("3", 1, [1], 6),
    ]
    rows.append(row("3", 2, list(range(50))))  # a seed without its partner does not count
    (found,) = module.compare(rows)
    assert (found["coupling"], found["against"], found["seeds"]) == ("3", "0", [0, 1])
    assert found["clusters_ratio"] == 0.5
    assert found["error"] == [1.5, 2.5]
    mean, low, high = found["error_difference"]
    assert mean == pytest.approx(1.0)
    # Two images of 100 are missed once more in two seeds: points of 0 and 50.
    half = 1.984 * 50 * (0.02 * 0.98 / 99) ** 0.5
    assert (low, high) == pytest.approx((1 - half, 1 + half), rel=1e-3)
    assert module.compare([row("0", 0, []), row("1", 1, [])]) == []
