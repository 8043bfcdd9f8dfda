"""Files and numbers of run tables."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.columns import fraction, in_per_cent, numbers, read_csv, rows_where


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("epochs,test_error,density,test_error\n10,0.2,0.1,0.5\n")
    with pytest.raises(InputError, match="has 2 columns 'test_error'; rename or drop one"):
        read_csv(path)
    path.write_text("epochs,,density,\n10,,0.1,\n")  # columns of a spreadsheet that hold nothing
    assert read_csv(path)["density"] == ["0.1"]


def test_a_file_that_cannot_be_opened_is_named_once(tmp_path):
    with pytest.raises(InputError, match=r"runs.csv: No such file or directory$"):
        read_csv(tmp_path / "runs.csv")


def test_per_cent_is_told_by_values_above_one():
    notes: list[str] = []
    assert not in_per_cent(np.array([-0.9, 1.0]))
    np.testing.assert_allclose(fraction(np.array([5.0, 0.5]), "lmc", notes), [0.05, 0.005])
    assert notes == ["lmc was read as per cent."]


def test_what_is_no_finite_number_is_named_by_its_row():
    assert numbers(["5%", 0.25, " 1e-1 "], "x").tolist() == [0.05, 0.25, 0.1]
    for values, words in (([1, "a"], "row 2: 'a'"), ([1, ""], "in row 2"), ([], "no rows")):
        with pytest.raises(InputError, match=words):
            numbers(values, "x")


def test_rows_are_chosen_by_number_or_by_text():
    columns = {"n": ["10", "10.0", "20"], "word": ["a", " b ", "b"]}
    assert rows_where(columns, {"n": 10})["word"] == ["a", " b "]
    assert rows_where(columns, {"word": "b", "n": "10"})["n"] == ["10.0"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
        ("a;b\n1,5;2\n", {"a": ["1,5"], "b": ["2"]}),
        ("a\tb, c\td\n1\t2\t3\n", {"a": ["1"], "b, c": ["2"], "d": ["3"]}),
    ],
)
def test_separators_of_spreadsheets_are_told_by_the_header(text, read, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    assert read_csv(tmp_path / "runs.csv") == read


def test_text_that_is_not_in_utf8_is_refused_with_its_cure(tmp_path):
    (tmp_path / "runs.csv").write_bytes("\u00e9pochs,density\n1,2\n".encode("latin-1"))
    with pytest.raises(InputError, match="save it as UTF-8"):
        read_csv(tmp_path / "runs.csv")
