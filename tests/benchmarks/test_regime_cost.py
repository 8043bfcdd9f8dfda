"""Costs that are not measured anew are kept."""

import json
import sys


def test_costs_that_are_not_measured_anew_are_kept(module, tmp_path, monkeypatch):
    cost = module("regime_cost")
    out = tmp_path / "cost.json"
    out.write_text('{"result": {"9 pilots": {"wall_seconds": 1.0}, "144 cells": {}}}')
    monkeypatch.setattr(cost, "nine_runs", lambda: {"wall_seconds": 2.0})
    monkeypatch.setattr(sys, "argv", ["regime_cost.py", "--only", "runs", "--out", str(out)])
    cost.main()
    found = json.loads(out.read_text())["result"]
    assert found == {"9 pilots": {"wall_seconds": 2.0}, "144 cells": {}}
