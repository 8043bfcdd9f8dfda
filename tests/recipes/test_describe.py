import pytest
import torch

from probcomp.coding import CodedSize
from probcomp.evaluation.sizes import Size
from probcomp.recipes.coded import Coded
from probcomp.recipes.describe import budget_lines, loss_unit, losses, machine, scored
from tests.recipes.jobs import job
from tests.recipes.mixtures import language_model, tokens

DENSE = Size(params=1000, nonzero=990, bytes=4000, macs=900)


def small(nonzero: int) -> Size:
    return Size(params=200, nonzero=nonzero, bytes=4 * nonzero, macs=nonzero)


def test_requested_stands_beside_achieved():
    line = budget_lines(job("params=0.1"), DENSE, small(100))[0]
    assert (line.requested, line.achieved, line.dense, line.kept) == (0.1, 0.1, 1000, 100)
    assert line.note == ""
    count = budget_lines(job("params=100"), DENSE, small(100))[0]
    assert (count.requested, count.achieved) == (100, 100)
    given = job("macs=0.1")  # of all weights, as the budget is: some may be zero already
    line = budget_lines(given, DENSE, small(90))[0]
    assert (line.dense, line.achieved) == (6 * 24 + 24 * 12 + 12 * 3, 90 / line.dense)


def test_bits_are_those_of_the_file():
    given = job("bits=0.1")
    dense = 32 * sum(p.numel() for p in given.model.parameters())
    size = CodedSize.of(round(0.06 * dense / 8), ())
    coded = Coded(b"", given.model, size, 0.0, 0.0)
    line = budget_lines(given, DENSE, small(100), coded)[0]
    assert (line.dense, line.kept) == (dense, 8 * size.bytes)
    assert line.achieved == pytest.approx(0.06, rel=0.01)
    assert "40% less remains than was allowed: finer values" in line.note


def test_a_difference_has_its_reason():
    assert (
        "less remains than was allowed" in budget_lines(job("params=0.1"), DENSE, small(50))[0].note
    )
    assert "not removable" in budget_lines(job("params=0.1"), DENSE, small(150))[0].note


def test_the_machine_is_named():
    words = machine()
    assert int(words["threads"]) >= 1
    assert words["processor"]
    assert all(isinstance(value, str) for value in words.values())


def test_a_loss_of_tokens_is_counted_by_token_whatever_the_method() -> None:
    """Texts of two lengths, and one that nothing is asked of; also where no likelihood was told."""
    model, data = language_model("mixtral"), tokens(6, 8)
    labels = data["input_ids"].clone()
    labels[:2, 3:] = -100  # two predictions each; the others seven
    labels[5] = -100
    data = {"input_ids": data["input_ids"], "labels": labels}
    given = job("params=0.5", model=model, train=data)
    assert scored(given).unit == "token"
    found = losses(model, given, data)
    with torch.no_grad():
        whole = float(model(**data).loss)
    assert len(found) == 5
    assert float(found.mean()) == pytest.approx(whole, rel=1e-5)
    assert loss_unit(given) == "token"
    assert loss_unit(job("params=0.5")) == "sample"
    pixels = (torch.randn(4, 2, 3, 3), torch.zeros(4, 3, 3, dtype=torch.long))
    assert loss_unit(job("params=0.5", model=torch.nn.Conv2d(2, 5, 1), train=pixels)) == "position"


def test_without_a_budget_there_is_no_line():
    assert budget_lines(job(None), DENSE, small(100)) == ()
