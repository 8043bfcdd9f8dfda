"""The rule by which settings are chosen on held-out images."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(
            "baseline_choices", FOLDER / "baseline_choices.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def row(value: float, error: float, nonzero: int, method: str = "vibnet") -> dict:
    return {
        "method": method,
        "value": value,
        "error": error,
        "dense_error": 1.8,
        "nonzero": nonzero,
    }


def test_the_fewest_weights_within_the_allowed_error(script) -> None:
    rows = [row(10, 1.8, 900), row(30, 2.1, 300), row(100, 2.2, 100)]
    assert script.chosen(rows) == {"vibnet": 30}


def test_a_method_that_is_nowhere_near_has_no_choice(script) -> None:
    rows = [row(0.5, 5.0, 10, "spike-slab-vb"), row(10, 1.8, 900)]
    assert script.chosen(rows) == {"vibnet": 10}
