import json
import math

import pytest

from probcomp.decoding.small.tasks import (
    PARTS,
    TASKS,
    is_valid,
    is_well_formed,
    main,
    make_examples,
    part_of,
    record_length_law,
    record_log_prob,
)
from probcomp.errors import InputError


@pytest.mark.parametrize("task", [t for t in TASKS if t != "record"])
def test_parts_never_share_a_prompt(task):
    prompts = {p: {e.prompt for e in make_examples(task, 60, 1, p)} for p in PARTS}
    assert not prompts["train"] & prompts["dev"]
    assert not prompts["dev"] & prompts["test"]
    assert all(part_of(prompt) == part for part, some in prompts.items() for prompt in some)


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_valid_and_seeded(task):
    examples = make_examples(task, 40, 2, "test")
    assert examples == make_examples(task, 40, 2, "test")
    for e in examples:
        assert is_valid(e, e.answer)
        assert is_well_formed(task, e.answer)
        assert not is_valid(e, e.answer + "0")


def test_the_law_of_records_is_a_law():
    law = record_length_law()
    assert sum(law.values()) == pytest.approx(1.0)
    # Given the prompt: the sum over one-item records, and that of two items, by their lengths.
    one = sum(math.exp(record_log_prob("?a", f"a{d}")) for d in range(10))
    assert one == pytest.approx(law[2])
    two = sum(
        math.exp(record_log_prob("?a", f"a{d},{letter}{e}"))
        for d in range(10)
        for letter in "abcd"
        for e in range(10)
    )
    assert two == pytest.approx(law[5])


def test_dev_examples_as_a_file(tmp_path, monkeypatch):
    out = tmp_path / "dev.jsonl"
    monkeypatch.setattr("sys.argv", ["tasks", "--out", str(out), "--count", "3"])
    main()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 9
    assert {line["task"] for line in lines} == {"add", "json", "record"}


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="json"):
        make_examples("jsno", 1, 0)
    with pytest.raises(InputError, match="test"):
        make_examples("add", 1, 0, "tests")
