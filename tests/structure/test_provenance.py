"""Integers remember where they came from, and attributes are written back where they were."""

import copy
import pickle
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.structure.provenance import (
    Dim,
    Op,
    Slot,
    TracedInt,
    assign,
    expression_of,
    instrument,
    slots,
    values,
)

A, B = Slot("net", ("a",)), Slot("net", ("b",))
SAME = lambda old: frozenset({old})  # noqa: E731
Pair = namedtuple("Pair", "height width")


class Config:
    def __init__(self) -> None:
        self.width, self.heads, self.flag = 12, 3, True

    def to_dict(self) -> dict[str, object]:
        return vars(self)


class Net(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.size, self.sides, self.one, self.name = config, 7, Pair(4, 5), 1, "x"


@given(
    st.integers(2, 50), st.integers(2, 50), st.integers(1, 9),
    st.lists(st.sampled_from("+-*/%"), min_size=2, max_size=2),
)  # fmt: skip
def test_arithmetic_keeps_the_number_and_the_way_to_it(a, b, number, signs):
    x, y = TracedInt(a, A), TracedInt(b, B)
    apply = {
        "+": lambda p, q: p + q, "-": lambda p, q: p - q, "*": lambda p, q: p * q,
        "/": lambda p, q: p // q, "%": lambda p, q: p % q,
    }  # fmt: skip
    made = apply[signs[1]](apply[signs[0]](x, y), number)
    plain = apply[signs[1]](apply[signs[0]](a, b), number)
    assert made == plain
    expression = expression_of(made)
    assert values(expression, {A: a, B: b}, SAME) == {plain}
    assert list(slots(expression)) == [A, B]
    again = apply[signs[1]](apply[signs[0]](a + 1, b + 2), number)
    assert values(expression, {A: a + 1, B: b + 2}, SAME) == {again}


def test_copies_remember_and_pickles_forget():
    x = TracedInt(5, A)
    assert copy.deepcopy([x])[0].expression is A
    assert type(pickle.loads(pickle.dumps(x))) is int
    assert expression_of(5) == 5
    assert expression_of(-x) == Op("-", 0, A)


def test_a_size_may_follow_its_tensor_and_nothing_is_divided_by_zero():
    follow = lambda old: frozenset({old, old // 2, 0})  # noqa: E731
    assert values(Dim(8), {}, follow) == {8, 4, 0}
    assert values(Op("//", 8, Dim(4)), {}, follow) == {2, 4}


def test_attributes_are_traced_and_written_back():
    config = Config()
    net = nn.Sequential(Net(config), Net(config))
    found = instrument(net)
    first = {str(slot): n for slot, n in found.items() if slot.path == "0"}
    assert first == {
        "0.config.width": 12, "0.config.heads": 3, "0.size": 7, "0.sides.0": 4, "0.sides.1": 5,
    }  # fmt: skip
    assert expression_of(net[0].sides.width) == Slot("0", ("sides", 1))
    fresh = nn.Sequential(Net(config), Net(config))
    assign(fresh, {Slot("0", ("config", "heads")): 2, Slot("1", ("sides", 1)): 9})
    assert (fresh[0].config.heads, fresh[1].config.heads, config.heads) == (2, 3, 3)
    assert fresh[1].sides == Pair(4, 9)
    with pytest.raises(KeyError):
        assign(fresh, {Slot("2", ("size",)): 1})
