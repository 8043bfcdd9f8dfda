"""Attributes solved from the sizes that operators are called with: fewest edits, or why not."""

from hypothesis import given
from hypothesis import strategies as st

from probcomp.structure.equations import Equation, solve
from probcomp.structure.provenance import Dim, Op, Slot

WIDTH, HEADS, SIZE = (Slot("attention", (name,)) for name in ("width", "heads", "size"))
OLD = {WIDTH: 12, HEADS: 3, SIZE: 4}


def nothing(old: int) -> frozenset[int]:
    return frozenset({old})


def test_one_attribute_that_is_read_directly():
    found = solve([Equation(HEADS, 2, 3, "view"), Equation(SIZE, 4, 4, "view")], OLD, nothing)
    assert found.edits == {HEADS: 2}
    assert found.conflicts == ()


def test_a_quotient_is_kept_by_changing_both_sides():
    """``size = width // heads`` must stay 4 while the number of heads falls."""
    equations = [
        Equation(HEADS, 2, 3, "view"),
        Equation(Op("//", WIDTH, HEADS), 4, 4, "view"),
    ]
    follow = lambda old: frozenset({old, 8}) if old == 12 else frozenset({old})  # noqa: E731
    found = solve(equations, OLD, follow)
    assert found.edits == {HEADS: 2, WIDTH: 8}


def test_one_attribute_cannot_serve_two_cuts():
    found = solve([Equation(HEADS, 2, 3, "a"), Equation(HEADS, 1, 3, "b")], OLD, nothing)
    assert found.edits == {}
    assert "no value of attention.heads fits" in found.conflicts[0]
    assert "2 (was 3) in a" in found.conflicts[0]


def test_a_literal_that_would_have_to_change_is_named():
    found = solve([Equation(3, 2, 3, "view at net.py:7"), Equation(4, 4, 4, "x")], OLD, nothing)
    assert found.conflicts == ("view at net.py:7 uses the literal 3, which would have to be 2",)


def test_what_follows_a_shape_needs_no_edit_and_may_be_given_up():
    follow = lambda old: frozenset({old, 2}) if old == 3 else frozenset({old})  # noqa: E731
    kept = solve([Equation(Op("*", Dim(3), SIZE), 8, 12, "view")], OLD, follow)
    assert (kept.edits, kept.conflicts) == ({}, ())
    soft = Equation(Op("*", Dim(3), SIZE), 99, 12, "soft")
    assert soft.soft
    given_up = solve([soft, Equation(SIZE, 5, 4, "hard")], OLD, nothing)
    assert given_up.edits == {SIZE: 5}


@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 6))
def test_solutions_satisfy_every_equation(heads, size, left):
    """Of a width made of heads, any number of heads can be left."""
    old = {HEADS: heads, SIZE: size, WIDTH: heads * size}
    new = min(left, heads)
    equations = [
        Equation(HEADS, new, heads, "a"),
        Equation(Op("*", HEADS, SIZE), new * size, heads * size, "b"),
        Equation(WIDTH, new * size, heads * size, "c"),
    ]
    found = solve(equations, old, nothing)
    assert found.conflicts == ()
    after = {**old, **found.edits}
    assert after[HEADS] == new
    assert after[HEADS] * after[SIZE] == after[WIDTH] == new * size
    assert set(found.edits) == ({HEADS, WIDTH} if new != heads else set())
