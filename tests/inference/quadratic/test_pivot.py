"""The table against evidence computed from scratch, unit by unit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.inference.quadratic.pivot import Pivot
from probcomp.testing.quadratic import group_teacher, set_evidence


def tables(width: int, seed: int = 0):
    teacher = group_teacher(groups=6, width=width, rows=4, correlation=1.0, seed=seed)
    kept = torch.tensor([True, False, True, True, False, True])
    return teacher, Pivot(teacher.quadratic, teacher.columns, teacher.slab, kept)


@pytest.mark.parametrize("width", [1, 3])
def test_evidence_in_and_out_is_the_difference_of_two_sets(width: int) -> None:
    teacher, pivot = tables(width)
    for unit, found in enumerate(pivot.evidence()):
        with_, without = pivot.kept.clone(), pivot.kept.clone()
        with_[unit], without[unit] = True, False
        direct = set_evidence(teacher.factor, with_) - set_evidence(teacher.factor, without)
        assert float(found) == pytest.approx(float(direct), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(pivot.evidence(torch.tensor([4, 0])), pivot.evidence()[[4, 0]])


@settings(max_examples=25)
@given(moves=st.lists(st.integers(0, 5), max_size=30), width=st.sampled_from([1, 3]))
def test_any_walk_ends_at_the_table_made_from_scratch(moves: list[int], width: int) -> None:
    _, pivot = tables(width, seed=1)
    for unit in moves:
        pivot.toggle(unit)
    table, linear = pivot.table.clone(), pivot.linear.clone()
    pivot.refresh()
    torch.testing.assert_close(table, pivot.table, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(linear, pivot.linear, rtol=1e-7, atol=1e-9)


def test_nothing_kept_is_the_prior_side_of_the_table() -> None:
    teacher, _ = tables(3)
    pivot = Pivot(teacher.quadratic, teacher.columns, teacher.slab, torch.zeros(6) > 0)
    torch.testing.assert_close(pivot.linear, teacher.quadratic.linear)
    one = torch.zeros(6, dtype=torch.bool)
    one[2] = True
    expected = float(set_evidence(teacher.factor, one))
    assert float(pivot.evidence()[2]) == pytest.approx(expected, rel=1e-10)
