"""Tasks: loading, refusing, fingerprints."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.regime.tasks import digits_task, load_task
from tests.regime import tiny_task

HERE = Path(__file__).parent


def test_a_file_a_function_and_a_module_give_the_same_task():
    path = str(HERE / "tiny_task.py")
    prints = {
        load_task(source).fingerprint()
        for source in (path, f"{path}:task", "tests.regime.tiny_task:task")
    }
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("text", "words"), [("def task(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError")]
)
def test_modules_that_fail_when_imported_are_refused(text, words, tmp_path, monkeypatch):
    (tmp_path / "a_task_module.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_task_module", raising=False)
    with pytest.raises(InputError, match=f"a_task_module raised {words}"):
        load_task("a_task_module:task")
    with pytest.raises(InputError, match="no task"):
        load_task("")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.py", "no task file"),
        ("no_such_package.part:task", "no task 'no_such_package"),
        (f"{HERE / 'tiny_task.py'}:missing", "has no 'missing'"),
        (f"{HERE / 'tiny_task.py'}:NOT_A_TASK", "expected a PilotTask"),
    ],
)
def test_what_is_no_task_is_refused(source, words):
    with pytest.raises(InputError, match=words):
        load_task(source)


def test_an_error_inside_the_file_names_its_line(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(InputError, match="ZeroDivisionError at line 2"):
        load_task(str(tmp_path / "broken.py"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"knob": "width"}, "knob 'width'"),
        ({"levels": (1,)}, "levels"),
        ({"levels": (1, 99)}, "epochs"),
        ({"levels": (0, 2, 4)}, "levels: knob 'epochs' has a value <= 0"),
        ({"knob": "weight_decay", "levels": (0, 1e-4)}, "'weight_decay' has a value <= 0"),
        ({"knob": "batch_size", "levels": (8, 12.5)}, "batch_size 12.5 is no whole number"),
        ({"densities": (0.1, 1.4)}, "densities"),
        ({"retrain_seeds": (0,)}, "retrain_seeds"),
        ({"retrain_seeds": (0, 1, 1)}, "retrain_seeds: numbers from 0 on, each once"),
        ({"dense_seeds": ()}, "dense_seeds"),
        ({"dense_seeds": (0, -1)}, "dense_seeds: numbers from 0 on, each once"),
        ({"train": (torch.zeros(3, 6), torch.zeros(4).long())}, "3 inputs and 4 targets"),
        ({"test": (torch.full((3, 6), torch.nan), torch.zeros(3).long())}, "NaN"),
        ({"test": (torch.zeros(3, 6), torch.zeros(3))}, "class numbers"),
    ],
)
def test_tasks_that_cannot_be_run_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(tiny_task.task(), **change)


def test_levels_are_what_recipes_hold():
    """By them the records of pilots are found: rounded sizes would be cells without a row."""
    change = {"knob": "batch_size", "levels": tuple(np.geomspace(8, 64, 4))}
    task = dataclasses.replace(tiny_task.task(), **change)
    assert task.levels == (8, 16, 32, 64)
    assert [task.recipe.turned("batch_size", level).batch_size for level in task.levels] == [
        *task.levels
    ]
    sharp = {"knob": "sam_rho", "levels": (0, 0.05)}  # on a linear scale zero has a place
    assert dataclasses.replace(tiny_task.task(), **sharp).levels == (0, 0.05)


def test_the_digits_task():
    task = digits_task()
    assert len(task.train[0]) == 1200
    assert len(task.test[0]) == 597
    assert task.fingerprint() == digits_task().fingerprint()
    assert task.fresh(0)(task.test[0][:3]).shape == (3, 10)
    assert task.turned_knob.hotter == "down"


LAYER = """
import dataclasses

from torch import nn

from tests.regime import tiny_task


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(self.first(x).{})


def task():
    return dataclasses.replace(tiny_task.task(), build=Net)
"""


def test_an_edited_forward_pass_or_augmentation_is_another_task(tmp_path):
    prints = set()
    for number, activation in enumerate(("relu()", "tanh()")):
        (tmp_path / f"part{number}.py").write_text(LAYER.format(activation))
        prints.add(load_task(str(tmp_path / f"part{number}.py")).fingerprint())
    assert len(prints) == 2
    plain = dataclasses.replace(tiny_task.task(), augment=None)
    assert plain.fingerprint() != tiny_task.task().fingerprint()
    # Without source there is a name.
    assert dataclasses.replace(plain, augment=torch.relu).fingerprint() != plain.fingerprint()
