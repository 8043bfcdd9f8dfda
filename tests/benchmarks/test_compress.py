"""The benchmark of the embedded default: the record of its checks."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("compress")


def test_checks_are_recorded_as_the_posterior_states_them(module, monkeypatch, capsys):
    meta = {
        "conditional": True,
        "removals": 40,
        "temperature_of_removals": 3.0,
        "removal_slope": 1.4,
        "evidence_slope_of_bins": [0.9, None, 2.0, 1.0],
        "measured": 34,
        "misfit_of_ranges": [0.01, 0.23, None, 0.05],
        "checked_of_ranges": [8, 5, 0, 3],
    }
    monkeypatch.setattr(module, "dense_network", lambda seed: (None, None))
    monkeypatch.setattr(
        module, "compress", lambda *_, **__: SimpleNamespace(posterior=SimpleNamespace(meta=meta))
    )
    assert module.check_seed(3, "params=0.1") == {"seed": 3} | meta
    said = capsys.readouterr().out
    assert "40 removals, measured over promised 1.40" in said
    assert "0.23 on 5" in said
    assert "conditional probabilities" in said
    monkeypatch.setitem(meta, "conditional", False)
    monkeypatch.setitem(meta, "removal_slope", None)
    module.check_seed(3, "params=0.1")
    assert capsys.readouterr().out.rstrip().endswith("scores")
