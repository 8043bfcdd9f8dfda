"""The dense model with units switched off."""

import copy

import pytest
import torch

from probcomp.errors import InputError, SurgeryError
from probcomp.structure import Routers, silence, trace, zeroed
from tests.recipes.mixtures import Mixture
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


def test_experts_are_silent_for_a_time_in_one_model_alone() -> None:
    model = Mixture(chosen=2).eval()
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    structure = trace(model, (x[:2],))
    (axis,) = (a for a in structure.axes if a.kind == "expert")
    keep = {axis.name: torch.arange(5) != 4}
    routers = Routers(structure, [axis])
    assert routers.parameters == {axis.name: routers.all_parameters}
    assert "router.weight" in routers.all_parameters
    twin = copy.deepcopy(model)
    with torch.no_grad():
        dense, silent = model(x), silence(structure, model, keep)(x)
        assert float((dense - silent).abs().max()) > 0.01
        with routers.without(model, keep):
            assert torch.equal(model(x), silent)
            assert torch.equal(twin(x), dense)
        assert torch.equal(model(x), dense)
        with routers.without(model, {axis.name: torch.ones(5, dtype=torch.bool)}):
            assert torch.equal(model(x), dense)
        zeros = zeroed(structure, model, keep)
        assert not zeros.up[4].any()
        with routers.without(zeros, keep):
            assert torch.equal(zeros(x), silent)
        assert not torch.equal(zeros(x), silent)


def test_scores_that_nothing_chooses_from_are_no_router() -> None:
    model = MLP().double()
    structure = trace(model, (X,))
    with pytest.raises(SurgeryError, match="router"):
        Routers(structure, [next(a for a in structure.axes if a.name == "layers.0.neuron")])
