import math

import pytest

from probcomp.errors import InputError
from probcomp.registry import Registry


def test_entries_are_objects_or_lazy_paths():
    table: Registry[object] = Registry("thing")
    table.add("pi", "math:pi")
    table.register("two")(2)
    assert table["pi"] == math.pi
    assert table["two"] == 2
    assert list(table) == ["pi", "two"]
    assert "pi" in table
    assert len(table) == 2


def test_duplicates_and_unknown_names_are_refused():
    table: Registry[int] = Registry("thing")
    table.add("one", 1)
    with pytest.raises(ValueError, match="registered twice"):
        table.add("one", 2)
    with pytest.raises(InputError, match=r"unknown thing 'on'. Did you mean 'one'"):
        table["on"]
