import pytest
import torch

from probcomp.decoding.small.resuming import LOG, load_state, save_state
from probcomp.errors import InputError
from probcomp.storage import read_tensors, write_tensors

SETTINGS = {"seed": 3, "mix": ("a", "b")}


def world(seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 4)
    steppers = [
        torch.optim.Muon([model.weight], lr=0.1),
        torch.optim.AdamW([model.bias], lr=0.1),
    ]
    return model, steppers


def step(model, steppers, count):
    for i in range(count):
        model.zero_grad()
        model(torch.arange(4.0) + i).square().sum().backward()
        for stepper in steppers:
            stepper.step()


def test_a_restored_run_takes_the_same_steps(tmp_path):
    model, steppers = world(0)
    step(model, steppers, 3)
    save_state(tmp_path / "s", model, steppers, SETTINGS, {"step": 3, "curve": [{"loss": 0.5}]})
    other, theirs = world(1)
    progress = load_state(tmp_path / "s", other, theirs, SETTINGS)
    assert progress == {"step": 3, "curve": [{"loss": 0.5}]}
    step(model, steppers, 2)
    step(other, theirs, 2)
    assert other.weight.equal(model.weight)
    assert other.bias.equal(model.bias)


def test_other_settings_and_other_files_are_refused_by_name(tmp_path):
    model, steppers = world(0)
    save_state(tmp_path / "s", model, steppers, SETTINGS, {"step": 0})
    before = model.weight.clone()
    with pytest.raises(InputError, match="seed=3 there, 4 here"):
        load_state(tmp_path / "s", model, steppers, {**SETTINGS, "seed": 4})
    tensors = read_tensors(tmp_path / "s")
    write_tensors(tmp_path / "bare", {k: v for k, v in tensors.items() if k != LOG})
    with pytest.raises(InputError, match="no training run"):
        load_state(tmp_path / "bare", model, steppers, SETTINGS)
    assert model.weight.equal(before)
