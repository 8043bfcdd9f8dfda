import json

from probcomp.recipes import METHODS


def test_table_is_generated_from_the_records(cli) -> None:
    ran = cli("methods")
    assert ran.status == 0
    flat = " ".join(ran.out.split())
    for name in METHODS:
        record = METHODS[name].record()
        assert name in ran.out
        for key in ("title", "inference", "source"):
            assert " ".join(str(record[key]).split())[:30] in flat


def test_json_holds_every_record(cli, tmp_path) -> None:
    ran = cli("methods", "--json", "--out", "methods.json", "--seed", 3)
    records = json.loads(ran.out)
    assert records == [METHODS[name].record() for name in METHODS]
    assert json.loads((tmp_path / "methods.json").read_text()) == records


def test_methods_by_name_and_in_brief(cli) -> None:
    ran = cli("methods", "flap", "magnitude")
    assert ran.out.count("how they are joined") == 2
    brief = cli("methods", "--brief")
    lines = brief.out.splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} >= {*METHODS}
    assert len(lines) < 3 * len(METHODS)


def test_an_unknown_method_is_one_line(refused) -> None:
    assert "flap" in refused("methods", "flpa")
