import pytest

from probcomp.errors import InputError, ProbcompError, unknown


def test_unknown_suggests_near_names():
    error = unknown("method", "turbo-vb", ["turbo-vbi", "magnitude"])
    assert isinstance(error, InputError)
    assert str(error) == (
        "unknown method 'turbo-vb'. Did you mean 'turbo-vbi'? Known: magnitude, turbo-vbi."
    )
    assert "Did you mean" not in str(unknown("method", "zzz", ["turbo-vbi"]))


def test_input_errors_are_value_errors_too():
    with pytest.raises(ValueError, match="x"):
        raise InputError("x")
    assert issubclass(InputError, ProbcompError)
