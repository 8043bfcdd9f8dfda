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


def test_a_row_states_regularity_at_the_target(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SCHEDULE", {"rounds": 2, "steps": 1, "refit_steps": 1})
    row = module.run(1.0, images(80), 0, tmp_path)
    total = 266_610  # biases included
    assert row["nonzero"] <= module.TARGET * total
    assert 0 < row["singletons"] <= row["clusters"] <= row["nonzero"]
    assert 0 < row["fill_16"] <= 1
    assert set(row["units"].values()) != {0}
