import json
import re

import pytest
import torch

from probcomp.cli import doctor
from probcomp.cli.doctor import examine


def find(name: str) -> doctor.Check:
    return next(check for check in examine() if check.name == name)


def test_finds_this_machine() -> None:
    checks = {check.name: check for check in examine()}
    assert checks["torch"].value == torch.__version__
    assert checks["torch"].status == "ok"
    assert checks["threads"].value.startswith(f"{torch.get_num_threads()} of ")
    assert (checks["gpu"].status == "ok") == torch.cuda.is_available()
    assert all(check.meaning and check.status in ("ok", "note", "bad") for check in checks.values())


def test_json_and_table_agree(cli, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    records = json.loads(cli("doctor", "--json").out)
    table = _without_amounts(" ".join(cli("doctor").out.split()))
    for record in records:
        assert record["name"] in table
        assert _without_amounts(record["value"].split()[0]) in table


def _without_amounts(text: str) -> str:
    """Free memory and disk change between two calls."""
    return re.sub(r"\d+\.\d+", "#", text)


def test_a_missing_library_is_bad_and_status_one(cli, monkeypatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "numpyro" else real(name))
    assert find("numpyro").status == "bad"
    ran = cli("doctor", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)


@pytest.mark.parametrize(
    ("version", "status"), [("2.10.1", "note"), ("2.13.0+cpu", "ok"), ("2.14.0", "note")]
)
def test_torch_range(monkeypatch, version, status) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert find("torch").status == status


def test_no_compiler(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find("compiler").status == "note"


@pytest.mark.parametrize("built", [True, False])
def test_the_kernel_is_told_and_how_to_build_it(built: bool, monkeypatch) -> None:
    monkeypatch.setattr("probcomp.kernels.cpp.available", lambda: built)
    monkeypatch.setattr("probcomp.kernels.cpp.instruction_set", lambda: "AVX2")
    check = find("C++ kernel")
    assert (check.status, check.value) == (("ok", "AVX2") if built else ("note", "not built"))
    assert built or "cpp.build()" in check.meaning


@pytest.mark.parametrize(("flag", "said"), [("avx512_bf16", True), ("avx2", False)])
def test_a_processor_that_multiplies_bfloat16_is_told(flag, said, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_flags", lambda: {flag})
    assert ("bfloat16" in find("processor").meaning) == said


def test_an_unwritable_place(tmp_path) -> None:
    check = doctor._disk(tmp_path / "absent", "current directory", "use")
    assert check.status == "note"
    assert "No such file" in check.value


def test_too_many_threads(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert "slower" in find("threads").meaning
