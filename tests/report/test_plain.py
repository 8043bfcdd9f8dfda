import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.report.plain import from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    x: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    one: Inner
    many: tuple[Inner, ...]
    maybe: Inner | None
    shape: tuple[int, ...] | None
    series: Mapping[str, float]


VALUE = Outer(Inner(1.5, ("a",)), (Inner(2.0), Inner(3.0)), None, (2, 3), {"k": 1.0})


def test_round_trip() -> None:
    plain = to_plain(VALUE)
    assert plain["many"] == [{"x": 2.0, "names": []}, {"x": 3.0, "names": []}]
    assert from_plain(Outer, plain, "outer") == VALUE


def test_scalars_of_other_libraries() -> None:
    plain = to_plain({"a": np.float32(0.5), "b": torch.tensor(3), "c": np.bool_(True)})
    assert plain == {"a": 0.5, "b": 3, "c": True}
    assert [type(v) for v in plain.values()] == [float, int, bool]


def test_values_that_are_not_finite_are_named() -> None:
    lost: list[str] = []
    plain = to_plain({"a": [1.0, math.nan], "b": {"c": -math.inf}}, lost)
    assert plain == {"a": [1.0, None], "b": {"c": None}}
    assert lost == ["a.1", "b.c"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"one": {"y": 1.0}}, "outer.one does not fit Inner: missing x; unknown y"),
        ({"many": [3]}, r"outer.many\[0\] must be an object"),
        ({"many": {}}, "outer.many must be a list"),
    ],
)
def test_refuses_other_keys(change, says) -> None:
    with pytest.raises(InputError, match=says):
        from_plain(Outer, {**to_plain(VALUE), **change}, "outer")


def test_refuses_objects() -> None:
    with pytest.raises(InputError, match="a: object has no JSON form"):
        to_plain({"a": object()})
