import dataclasses
import json
import math

import pytest

from probcomp.errors import InputError
from probcomp.evaluation import Size
from probcomp.report import Report, pieces

SMALL = Report(model="m", method="x", seed=1, dense=Size(10, 10, 40), compressed=Size(5, 4, 20))


def test_round_trip_through_a_file(report, tmp_path) -> None:
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report.replace(
        history={k: list(v) for k, v in report.history.items()}
    )


def test_json_has_every_documented_key_and_no_other(report) -> None:
    plain = report.to_json()
    fields = {f.name for f in dataclasses.fields(Report)}
    assert set(plain) == fields | {"ratios"}
    for kind in (Report, pieces.BudgetLine, pieces.MaskPicture, pieces.UnitSummary, Size):
        for field in dataclasses.fields(kind):
            assert f"\n        {field.name}: " in f"\n{kind.__doc__}", f"{field.name} undocumented"
    json.dumps(plain, allow_nan=False)


def test_ratios() -> None:
    assert SMALL.ratios == {"nonzero": 2.5, "params": 2.0, "bytes": 2.0}
    with_macs = SMALL.replace(dense=Size(10, 10, 40, 90), compressed=Size(5, 0, 20, 30))
    assert with_macs.ratios == {"params": 2.0, "macs": 3.0, "bytes": 2.0}


def test_nan_becomes_null_and_is_named() -> None:
    plain = SMALL.replace(history={"nll": [1.0, math.nan]}, warnings=("first",)).to_json()
    assert plain["history"]["nll"] == [1.0, None]
    assert plain["warnings"] == ["first", "history.nll.1 is not finite and is written as null"]


def test_refuses_files_that_do_not_fit(tmp_path) -> None:
    plain = SMALL.to_json()
    del plain["model"]
    (tmp_path / "report.json").write_text(json.dumps({**plain, "modell": "m"}))
    with pytest.raises(InputError, match="missing model; unknown modell"):
        Report.read(tmp_path / "report.json")
