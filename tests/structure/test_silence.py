"""The dense model with units switched off."""

import copy

import pytest
import torch

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import silence, trace
from tests.structure.cutting import run
from tests.structure.nets import MLP

X = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).double()


def test_slices_of_a_unit_are_zero_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    model = MLP().double()
    before = copy.deepcopy(model.state_dict())
    keep = torch.arange(24) != 5
    silent = silence(trace(model, (X,)), model, {"layers.0.neuron": keep})
    assert not silent.layers[0].weight[5].any()
    assert not silent.layers[0].bias[5]
    assert not silent.layers[1].weight[:, 5].any()
    assert torch.equal(silent.layers[0].weight[keep], before["layers.0.weight"][keep])
    assert torch.equal(silent.layers[1].weight[:, keep], before["layers.1.weight"][:, keep])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        hidden = torch.relu(by_hand.layers[0](X)) * keep
        expected = by_hand.layers[2](torch.relu(by_hand.layers[1](hidden)))
    torch.testing.assert_close(run(silent, (X,))[0], expected, rtol=0, atol=1e-14)


def test_keeping_everything_changes_nothing() -> None:
    model = MLP().double()
    silent = silence(trace(model, (X,)), model, {})
    assert silent is not model
    assert torch.equal(run(silent, (X,))[0], run(model, (X,))[0])


def test_what_cannot_go_is_refused() -> None:
    model = MLP().double()
    structure = trace(model, (X,))
    blocked = next(a for a in structure.axes if a.blocked)
    gone = torch.arange(blocked.size) > 0
    with pytest.raises((SurgeryError, InputError), match=blocked.name.replace(".", r"\.")):
        silence(structure, model, {blocked.name: gone})
    with pytest.raises(InputError, match="nothing"):
        silence(structure, model, {"nothing": gone})
