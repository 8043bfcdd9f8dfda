import sys
from pathlib import Path

import pytest
import torch

from probcomp.cli.sources import call, load_data, load_model
from probcomp.errors import InputError

SCRIPT = """
import torch
from helper import N
from probcomp.data import Data

x, y = torch.zeros(N, 3), torch.arange(N) % 2

def pair(): return x, y
def parts(): return (x, y), (x[:2], y[:2])
def lists(): return [[x, y], [x, y]]
def named(): return {"input_ids": y, "labels": y}
def named_parts(): return {"input_ids": y, "labels": y}, {"input_ids": y, "labels": y}
def whole(): return Data((x, y), None, "mine", 2)
def unlabelled(): return {"input_ids": y}
def nothing(): return None
def three(): return x, y, y
def nan(): return x / 0, y
"""


@pytest.fixture
def script(tmp_path) -> str:
    (tmp_path / "helper.py").write_text("N = 6")
    (tmp_path / "given.py").write_text(SCRIPT)
    yield str(tmp_path / "given.py")
    sys.modules.pop("helper", None)


@pytest.mark.parametrize(
    ("name", "test_samples"),
    [("pair", None), ("parts", 2), ("lists", 6), ("named", None), ("named_parts", 6)],
)
def test_forms_of_data(script, name, test_samples) -> None:
    data = load_data(f"{script}:{name}", 0)
    assert (data.name, data.classes) == ("given", 2)
    if test_samples is None:
        assert data.test is None
    else:
        part = data.test["labels"] if isinstance(data.test, dict) else data.test[1]
        assert len(part) == test_samples


def test_targets_may_be_absent(script) -> None:
    data = load_data(f"{script}:unlabelled", 0)
    assert list(data.train) == ["input_ids"]
    assert data.classes == 0


def test_a_data_object_is_taken_as_it_is(script) -> None:
    assert load_data(f"{script}:whole", 0).name == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "returned NoneType"),
        ("three", "returned tuple"),
        ("nan", "NaN"),
    ],
)
def test_data_that_do_not_fit(script, name, says) -> None:
    with pytest.raises(InputError, match=says):
        load_data(f"{script}:{name}", 0)


def test_digits_by_name_follow_the_seed() -> None:
    assert not torch.equal(load_data("digits", 0).train[1], load_data("digits", 1).train[1])


def test_path_is_as_before_even_after_an_error(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("x = (")
    before = list(sys.path)
    with pytest.raises(InputError, match="SyntaxError at line 1"):
        call(f"{tmp_path / 'bad.py'}:f")
    assert sys.path == before


def test_weights_in_other_formats_are_not_unpickled(tmp_path) -> None:
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"is a file; expected file\.py:function .* builds its"):
        load_model(str(tmp_path / "model.pt"))
    assert Path(tmp_path / "model.pt").exists()
