"""Files of the user's own: run with their directory at hand, and told where they fail."""

import sys

import pytest

from probcomp.errors import BudgetError, InputError
from probcomp.user_file import module_of, running


def test_a_file_is_a_module_with_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_user.py").write_text("value = 3\n")
    (tmp_path / "mine.py").write_text("from neighbour_of_user import value\nother = value + 1\n")
    before = list(sys.path)
    module = module_of(tmp_path / "mine.py", "probcomp_test_")
    assert (module.__name__, module.other) == ("probcomp_test_mine", 4)
    assert sys.modules["probcomp_test_mine"] is module
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\nb = 1 / 0\n", "raised ZeroDivisionError at line 2:"),
        ("a = 1\n\nb = (\n", "raised SyntaxError at line 3:"),
    ],
)
def test_an_error_is_told_with_its_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    before = list(sys.path)
    with pytest.raises(InputError, match=said):
        module_of(path, "probcomp_test_")
    with pytest.raises(InputError, match=r"^it raised"):
        module_of(path, "probcomp_test_", "it")
    assert sys.path == before


def test_what_is_no_python_file_is_told(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not a Python file"):
        module_of(tmp_path / "mine.txt", "probcomp_test_")


def test_our_own_errors_pass(tmp_path):
    with pytest.raises(BudgetError, match=r"^too small$"), running(tmp_path / "mine.py", "it"):
        raise BudgetError("too small")
    with (
        pytest.raises(InputError, match=r"^it raised KeyError: 'a'$"),
        running(tmp_path / "m", "it"),
    ):
        {}["a"]
