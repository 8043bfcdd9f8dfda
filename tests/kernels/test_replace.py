"""Packed layers in a model: where they are faster, exactly undone, saved and loaded."""

import copy
import shutil

import pytest
import torch
from torch import nn

import probcomp
from probcomp.errors import InputError
from probcomp.kernels import MaskedLinear, cpp, pack_layers, replace, unpack_layers
from probcomp.kernels.fused import fused_modules
from probcomp.models import LeNet300100
from probcomp.structure import apply_masks
from probcomp.structure.masks import forget_missing, masks_of
from tests.kernels.supports import block_support, generator


@pytest.fixture(autouse=True)
def layers_only(monkeypatch) -> None:
    """Chains have tests of their own, below."""
    monkeypatch.setattr(replace.cpp, "available", lambda: False)


def net(density: float = 0.1, holes: bool = False) -> nn.Module:
    """A wide layer with live blocks, one whose mask is a rectangle, and one without a mask."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.Linear(256, 3))
    blocks = block_support((512, 256), (64, 32), density, seed=1)
    if holes:
        blocks &= torch.rand(512, 256, generator=generator(2)) < 0.9
    rectangle = torch.zeros(256, 512, dtype=torch.bool)
    rectangle[:64, ::4] = True
    return apply_masks(model, {"0.weight": blocks, "2.weight": rectangle})


def packed(gain: float = 0.0, **how) -> tuple[nn.Module, nn.Module, tuple]:
    model = net(**how)
    twin = copy.deepcopy(model)
    x = torch.randn(32, 256, generator=generator(3))
    tried = pack_layers(model, masks_of(model), lambda m: m(x), gain=gain, rounds=3)
    forget_missing(model)
    return model, twin, tried


@pytest.mark.parametrize("holes", [False, True])
def test_outputs_stay_and_unpacking_restores_every_bit(holes) -> None:
    model, twin, tried = packed(holes=holes)
    assert [layer.name for layer in tried] == ["0", "2"]
    assert {layer.format for layer in tried} == {"blocks", "compact"}
    assert all(layer.used and layer.rows == 32 and layer.speedup > 0 for layer in tried)
    assert isinstance(model[0], MaskedLinear)
    assert type(model[3]) is nn.Linear
    x = torch.randn(5, 256, generator=generator(4))
    assert torch.allclose(model(x), twin(x), atol=1e-5)
    apply_masks(model, unpack_layers(model))
    for one, other in zip(model.state_dict().values(), twin.state_dict().values()):
        assert torch.equal(one, other)
    for name, mask in masks_of(twin).items():
        assert torch.equal(masks_of(model)[name], mask)


def test_a_layer_that_is_not_faster_stays_dense() -> None:
    model, _, tried = packed(gain=1e9)
    assert tried
    assert not any(layer.used for layer in tried)
    assert not any(isinstance(module, MaskedLinear) for module in model.modules())


def test_training_a_packed_model_keeps_dead_weights_dead() -> None:
    model, _, _ = packed(holes=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(8, 256)).square().sum().backward()
    optimizer.step()
    dense = model[0].packed().dense()
    masks = unpack_layers(model)
    assert (dense[~masks["0.weight"]] == 0).all()
    assert (model[0].weight != net(holes=True)[0].weight)[masks["0.weight"]].any()


def test_saved_and_loaded_it_is_packed_again(tmp_path) -> None:
    model, twin, _ = packed()
    probcomp.save(model, tmp_path)
    assert isinstance(model[0], MaskedLinear)  # saving changes nothing
    again = probcomp.load(tmp_path)
    assert isinstance(again[0], MaskedLinear)
    x = torch.randn(5, 256, generator=generator(4))
    assert torch.equal(again(x), model(x))
    apply_masks(again, unpack_layers(again))
    for one, other in zip(again.state_dict().values(), twin.state_dict().values()):
        assert torch.equal(one, other)


def test_small_layers_and_layers_that_do_not_run_are_left_alone() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.small = nn.Linear(256, 256), nn.Linear(4, 4)

        def forward(self, x):
            return self.small(x)

    model = Idle()
    masks = {"idle.weight": torch.zeros(256, 256).bool(), "small.weight": torch.zeros(4, 4).bool()}
    masks["idle.weight"][0] = True
    assert pack_layers(model, masks, lambda m: m(torch.ones(1, 4)), gain=0.0) == ()


def test_a_record_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="no masked linear layer"):
        replace.repack_layers(nn.Sequential(nn.ReLU()), {"0": {"format": "blocks"}}, {})
    with pytest.raises(InputError, match="no masked linear layer"):
        replace.repack_layers(nn.Sequential(nn.ReLU()), {"x.y": {"format": "blocks"}}, {})


@pytest.fixture
def compiled(monkeypatch, layers_only) -> None:
    monkeypatch.undo()
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    cpp.build()


def test_a_faster_chain_runs_as_one_call_and_is_saved_and_undone(compiled, tmp_path) -> None:
    model = LeNet300100(64)
    mask = torch.ones(100, 300, dtype=torch.bool)
    mask[:, ::2] = False
    apply_masks(model, {"fc2.weight": mask})
    twin = copy.deepcopy(model)
    x = torch.randn(32, 64, generator=generator(3))
    tried = pack_layers(model, masks_of(model), lambda m: m(x), gain=0.0, rounds=3)
    chain = tried[-1]
    assert (chain.name, chain.format, chain.used) == ("the whole model", "chain", True)
    assert chain.rows == 32
    assert 0 < chain.density <= chain.stored < 1
    with torch.no_grad():
        assert torch.allclose(model(x), twin(x), atol=1e-5)
    assert model.training
    forget_missing(model)
    probcomp.save(model, tmp_path)
    again = probcomp.load(tmp_path)
    assert [name for name, _ in fused_modules(again)] == [""]
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model.eval()(x))
    apply_masks(again, unpack_layers(again))
    assert not list(fused_modules(again))
    assert type(again) is LeNet300100
    for one, other in zip(again.state_dict().values(), twin.state_dict().values()):
        assert torch.equal(one, other)


def test_a_chain_that_is_not_faster_or_does_not_agree_stays(compiled, monkeypatch) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    (chain,) = pack_layers(model, {}, lambda m: m(x), gain=1e9, rounds=3)
    assert not chain.used
    assert not list(fused_modules(model))
    monkeypatch.setattr(cpp, "run_chain", lambda x, chain, isa=-1: torch.zeros(4, 8))
    assert pack_layers(model, {}, lambda m: m(x), gain=0.0, rounds=3) == ()
