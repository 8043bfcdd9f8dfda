"""The README's Python is run as it stands, and its first lines are the two commands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_first_two_lines_are_the_commands():
    first, second = README.read_text(encoding="utf-8").splitlines()[:2]
    assert first.split("#")[0].strip() == "pip install -e . && probcomp compress"
    assert second.split("#")[0].strip() == 'pip install -e ".[test]" && pytest'


@pytest.mark.timeout(280)
def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    result, again = names["result"], names["again"]
    assert result.report.compressed.nonzero <= 0.1 * result.report.dense.params
    assert sum(p.numel() for p in again.parameters()) == result.report.compressed.params
    assert "channel" in capsys.readouterr().out
