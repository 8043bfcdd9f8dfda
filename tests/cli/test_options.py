import contextlib
import json
import sys

import pytest

from probcomp.cli.options import note, print_json, quiet_stdout, save_json
from probcomp.errors import InputError


def test_stdout_is_kept_for_the_result(capsys) -> None:
    with quiet_stdout():
        print("noise")
    print_json({"a": 1})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    assert err == "noise\n"


def work_that_fails() -> None:
    with contextlib.suppress(InputError), quiet_stdout():
        print("noise")
        raise InputError("no")


def test_noise_before_an_error_is_dropped(capsys, monkeypatch) -> None:
    monkeypatch.delenv("PROBCOMP_DEBUG", raising=False)
    work_that_fails()
    assert capsys.readouterr() == ("", "")


def test_noise_before_an_error_is_shown_to_debuggers(capsys, monkeypatch) -> None:
    monkeypatch.setenv("PROBCOMP_DEBUG", "1")
    work_that_fails()
    assert capsys.readouterr() == ("", "noise\n")


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"a": float("nan")})


def test_notes_are_for_those_who_watch(capsys, monkeypatch) -> None:
    note("quiet")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    note("loud")
    assert capsys.readouterr().err == "loud\n"


def test_result_file(tmp_path) -> None:
    save_json([1], None)
    save_json([1], tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == [1]
