"""Chains that run as one call: the same numbers, the same module, and nothing else changed."""

import copy
import pickle
import shutil

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from probcomp.kernels import MaskedLinear, cpp, pack, quantise
from probcomp.kernels.activations import ACTIVATIONS
from probcomp.kernels.fused import Fused, fuse, fused_modules, unfuse, weights_kept
from probcomp.models import LeNet300100
from tests.kernels.supports import block_support, generator, relative_error

FLOAT32 = 3e-6


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    cpp.build()


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Rows of every call of the kernel."""
    seen: list[int] = []
    real = cpp.run_chain

    def run_chain(x, chain, isa=-1):
        seen.append(x.shape[0])
        return real(x, chain, isa)

    monkeypatch.setattr(cpp, "run_chain", run_chain)
    return seen


def sparse() -> nn.Module:
    """64-300-100-10, with zeros in the second layer."""
    torch.manual_seed(0)
    model = LeNet300100(64)
    with torch.no_grad():
        model.fc2.weight[:, ::2] = 0.0
        model.fc2.weight[16:64, 40:] = 0.0
    return model.eval()


@pytest.mark.parametrize("rows", [0, 1, 5, 130])
def test_outputs_are_those_of_the_module(rows: int, calls) -> None:
    model = sparse()
    twin = copy.deepcopy(model)
    assert fuse(model)
    x = torch.randn(rows, 4, 16, generator=generator(1))
    with torch.inference_mode():
        y, expected = model(x), twin(x)
    assert calls == [rows]
    assert y.shape == (rows, 10)
    assert relative_error(y, expected) < FLOAT32


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_and_any_leading_shape(name: str, calls) -> None:
    torch.manual_seed(0)
    act = {"none": nn.Identity(), "relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU(),
           "gelu_tanh": nn.GELU(approximate="tanh")}[name]  # fmt: skip
    model = nn.Sequential(nn.Linear(20, 33, bias=False), act, nn.Linear(33, 7)).eval()
    twin = copy.deepcopy(model)
    assert fuse(model)
    x = 4.0 * torch.randn(3, 5, 20, generator=generator(2))
    with torch.inference_mode():
        assert relative_error(model(x), twin(x)) < FLOAT32
        assert calls == [15]
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(x[..., 1:])


def test_packed_layers_may_be_links(calls) -> None:
    torch.manual_seed(0)
    weight, other = torch.randn(64, 48), torch.randn(32, 64)
    blocks = pack(weight, block_support((64, 48), (32, 16), 0.5), block=(32, 16), format="blocks")
    whole = pack(other, torch.ones(32, 64, dtype=torch.bool), bias=torch.randn(32))
    model = nn.Sequential(MaskedLinear(blocks), nn.GELU(), MaskedLinear(whole)).eval()
    twin = copy.deepcopy(model)
    assert fuse(model)
    x = torch.randn(9, 48)
    with torch.inference_mode():
        y = model(x)
        assert calls == [9]
        assert relative_error(y, twin(x)) < FLOAT32
    sliced = pack(other, torch.arange(64).expand(32, 64) % 3 == 0, format="compact")
    odd = pack(torch.randn(8, 32), block_support((8, 32), (8, 8), 0.5), block=(8, 8),
               format="blocks")  # fmt: skip
    model = nn.Sequential(MaskedLinear(blocks), MaskedLinear(sliced), MaskedLinear(odd)).eval()
    twin = copy.deepcopy(model)
    assert fuse(model)
    with torch.inference_mode():
        assert relative_error(model(x), twin(x)) < FLOAT32
    rounded = MaskedLinear(quantise(blocks))
    assert not fuse(nn.Sequential(rounded, nn.GELU(), MaskedLinear(whole)))
    twice = MaskedLinear(blocks, activation="relu")
    assert not fuse(nn.Sequential(twice, nn.GELU(), MaskedLinear(whole)))
    assert not fuse(nn.Sequential(nn.Linear(4, 4).double(), nn.Linear(4, 4).double()))
    with torch.inference_mode():  # a write to a tensor made here could not be seen
        assert not fuse(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


def test_whatever_is_not_plain_inference_runs_the_module_itself(calls) -> None:
    model = sparse()
    fuse(model)
    x = torch.randn(4, 64)
    model(x)  # gradients of the parameters are wanted
    with torch.no_grad():
        model.double()(x.double())
        model.float().train()(x)
        model.eval()
        handle = model.fc2.register_forward_hook(lambda *_: None)
        model(x)
        handle.remove()
        model.fc2.forward = lambda h: h[:, :100]  # as accelerate and quantisers do
        model(x)
        del model.fc2.forward
        with FlopCounterMode(display=False) as counter:
            model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        torch.vmap(model)(x[None])
        torch.jit.trace(model, x, check_trace=False)
    assert counter.get_total_flops() == 2 * 4 * (64 * 300 + 300 * 100 + 100 * 10)
    assert calls == []
    with torch.no_grad():
        model(x)
    assert calls == [4]


def test_it_compiles_exports_and_has_gradients() -> None:
    model = sparse()
    twin = copy.deepcopy(model)
    fuse(model)
    x = torch.randn(4, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(model, (x,)).module()
    for run in (compiled, exported):
        assert relative_error(run(x), twin(x)) < FLOAT32
    for net in (model, twin):
        net(x).square().sum().backward()
    for one, other in zip(model.parameters(), twin.parameters()):
        assert torch.equal(one.grad, other.grad)


def test_a_write_to_a_weight_is_seen(calls) -> None:
    model = sparse()
    fuse(model)
    x = torch.randn(4, 64)
    with torch.no_grad():
        model(x)
        model.fc3.weight.mul_(2.0)
        model.fc3.bias.mul_(2.0)
        doubled = model(x)
        model.load_state_dict(sparse().state_dict())
        once = model(x)
        assert relative_error(doubled, 2 * once) < FLOAT32
        model.fc3 = nn.Linear(100, 10)
        model.fc3.weight.zero_()
        model.fc3.bias.fill_(5.0)
        model.eval()
        assert torch.equal(model(x), torch.full((4, 10), 5.0))
        model.fc3.bias.data = torch.full((10,), 7.0)
        assert torch.equal(model(x), torch.full((4, 10), 7.0))
    assert len(calls) == 5


def test_copies_and_pickles_are_fused_and_unfusing_leaves_no_trace() -> None:
    model = sparse()
    before = dict(model.__dict__)
    fuse(model)
    assert isinstance(model, LeNet300100)
    assert type(model).__name__ == "LeNet300100"
    x = torch.randn(4, 64)
    with torch.no_grad():
        y = model(x)
        for twin in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert [name for name, _ in fused_modules(twin)] == [""]
            assert torch.equal(twin(x), y)
    unfuse(model)
    assert type(model) is LeNet300100
    assert model.__dict__.keys() == before.keys()


def test_a_slice_of_a_fused_sequence_is_another_module() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    fuse(model)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        assert torch.equal(model[:2](x), torch.relu(model[0](x)))
    assert not list(fused_modules(model[:2]))
    assert isinstance(model[:2].train(), Fused)


def test_zeros_are_not_stored() -> None:
    model = sparse()
    fuse(model)
    live, stored = weights_kept(model)
    weights = [model.fc1.weight, model.fc2.weight, model.fc3.weight]
    whole = sum(w.numel() for w in weights)
    assert live == sum(int((w != 0).sum()) for w in weights) / whole
    assert live < stored < 1.0
