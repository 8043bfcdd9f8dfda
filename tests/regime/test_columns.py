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
    assert numbers({"x": ["5%", 0.25, " 1e-1 "]}, "x").tolist() == [0.05, 0.25, 0.1]
    for values, words in (
        ([1, "a"], r"row 2 \(the first is 1\): 'a'"),
        ([1, ""], r"1 missing value\(s\), in row 2 .* with where={'x!': ''} \(--where x!= of"),
        ([1, "NA", None, np.nan], "3 missing .* in rows 2, 3, 4 "),
        ([1, "inf"], "1 infinite .* in row 2 .* leave such runs out of the table"),
        ([], "no rows"),
    ):
        with pytest.raises(InputError, match=words):
            numbers({"x": values}, "x")
    np.testing.assert_array_equal(numbers({"x": [1, ""]}, "x", blanks=True), [1, np.nan])
    with pytest.raises(InputError, match="infinite"):
        numbers({"x": [1, "inf"]}, "x", blanks=True)


def test_rows_of_a_file_have_the_numbers_of_its_lines(tmp_path):
    """Blank lines and lines that were left out count, and so does the header."""
    path = tmp_path / "runs.csv"
    path.write_text("task,x\na,1\n\nb,2\na,oh\nb,3\na,\n")
    read = read_csv(path)
    for columns in (read, rows_where(read, {"task": "a"})):
        with pytest.raises(InputError, match=r"'x', line 5 \(the header is line 1\): 'oh'"):
            numbers(columns, "x")
    words = read["x"].index("oh")
    read["x"][words] = ""
    with pytest.raises(InputError, match=r"in lines 5, 7 \(the header is line 1\)"):
        numbers(rows_where(read, {"task": "a"}), "x")
    with pytest.raises(InputError, match=r"in rows 4, 6 \(the first is 1\)"):
        numbers(rows_where({"t": list("babaca"), "x": [1, 2, 3, "", 5, ""]}, {"t": "a"}), "x")


def test_rows_are_left_out_by_value_or_where_they_are_blank():
    columns = {"n": ["10", "10.0", "20", ""], "x": [1, None, float("nan"), " "]}
    left = rows_where(columns, {"n!": 10})
    assert left["n"] == ["20", ""]
    assert left.notes == ("2 rows with n 10 were left out.",)
    there = rows_where(columns, {"x!": ""})
    assert there["n"] == ["10"]
    assert there.notes == ("3 rows with x (blank) were left out.",)
    assert rows_where(columns, {"n": ""})["x"] == [" "]
    assert rows_where({"n!": [1, 2]}, {"n!": 2})["n!"] == [2]  # a column of that name
    with pytest.raises(InputError, match=r"no run has another than x \(blank\)"):
        rows_where({"x": ["", None]}, {"x!": ""})
    with pytest.raises(InputError, match="unknown column 'y'"):
        rows_where(columns, {"y!": ""})


def test_one_value_above_one_among_shares_does_not_turn_all_into_per_cent():
    shares = np.array([0.12, 0.15, 1.2, 0.19, 0.14])
    for name, values in (("test_error", shares), ("test_acc", np.r_[0.9, 0.95, 1.2])):
        with pytest.raises(InputError, match=r"up to 1.2, but half .* give all as shares of 1"):
            fraction(values, name, [])
    mnist = np.array([0.6, 1.2, 0.7])  # per cent
    np.testing.assert_allclose(fraction(mnist, "test_error", []), mnist / 100)
    np.testing.assert_allclose(fraction(-shares, "lmc", []), -shares / 100)


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
