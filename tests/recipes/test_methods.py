"""The table of methods: every record is complete, and budgets that users may name are told."""

import json

import pytest

from probcomp.allocation import Budget
from probcomp.recipes.methods import IN_PARAMS, METHODS

WORDS = ("title", "source", "evidence", "inference", "allocation", "speedup", "when", "data")


@pytest.mark.parametrize("name", list(METHODS))
def test_records_are_complete(name) -> None:
    method = METHODS[name]
    assert method.name == name
    assert all(getattr(method, word) for word in WORDS)
    assert method.when in ("during", "after")
    assert method.data in ("none", "calibration", "training")
    assert method.budgets or method.own_rule
    assert not method.probabilistic or method.prior or method.inference
    record = method.record()
    assert json.loads(json.dumps(record)) == record
    assert "run" not in record
    for unit in record["budgets"]:
        Budget(**{unit: 0.5})


def test_budgets_that_are_turned_into_params_are_listed_where_params_are_met() -> None:
    for method in (METHODS[name] for name in METHODS):
        for unit in IN_PARAMS:
            assert (unit in method.units) == ("params" in method.budgets or unit in method.budgets)
        assert len(set(method.units)) == len(method.units)
