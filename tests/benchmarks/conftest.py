"""What the tests of benchmarks share: their modules, and a made-up sweep."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a part of the benchmark, as the script itself does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    # names that others may use
    for name in [n for n in sys.modules if n.startswith(("_regime_", "regime_")) or n == "regime"]:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def sweep_of_digits():
    """Rows of a made-up sweep: errors rise with the distance from 20 epochs, and by seeds."""
    from probcomp.regime.tasks import load_task

    task, rows = load_task("digits"), {}
    for level in task.levels:
        for density in task.densities:
            for seed in range(8):
                error = 0.05 + 0.001 * abs(level - 20) + 0.0001 * seed
                rows[level, density, seed] = {
                    "density_realised": density, "test_error": error, "train_error": 0.0,
                    "pruned_test_error": 0.5, "wall_s": 6.0, "lmc": -0.1, "cka": 0.9,
                    "agreement": 0.9, "dense_test_error": 0.05,
                }  # fmt: skip
    return task, rows
