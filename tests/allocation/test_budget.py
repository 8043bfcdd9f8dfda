import pytest

from probcomp.allocation import Budget
from probcomp.errors import BudgetError


def test_a_share_and_a_count():
    assert Budget(params=0.1).amount(50_000) == pytest.approx(5_000)
    assert Budget(macs=2_000).amount(50_000) == 2_000
    assert Budget(latency_ms=0.5).amount(3.0) == 0.5
    assert Budget(params=1.0).amount(7) == 7  # one is the whole, not one parameter


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("params=0.1", "params", 0.1), (" macs = 60% ", "macs", 0.6), ("bits=80_000", "bits", 8e4)],
)
def test_parse(text, unit, value):
    budget = Budget.parse(text)
    assert budget.unit == unit
    assert budget.value == pytest.approx(value)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params", "form UNIT=VALUE"),
        ("parms=0.1", "Did you mean 'params'"),
        ("params=ten", "not a number"),
        ("params=0", "out of range"),
        ("params=-0.5", "out of range"),
        ("params=nan", "out of range"),
        ("params=inf", "out of range"),
    ],
)
def test_parse_refuses(text, says):
    with pytest.raises(BudgetError, match=says):
        Budget.parse(text)


def test_exactly_one_unit():
    with pytest.raises(BudgetError, match="exactly one unit"):
        Budget()
    with pytest.raises(BudgetError, match="exactly one unit"):
        Budget(params=0.1, macs=0.1)
    with pytest.raises(BudgetError, match="must be a number"):
        Budget(params="0.1")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="more than the dense"):
        Budget(params=100).amount(99)
