"""Compaction of a pair of layers against the masked network, the bias fold included."""

import copy
import pickle
import shutil

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import compact_mlp, cpp
from probcomp.kernels.activations import ACTIVATIONS
from tests.kernels.supports import folded, generator

EXACT = 1e-12  # float64 sums in another order


def network(seed: int, gated: bool):
    rng = generator(seed)
    hidden, inputs, outputs = 24, 10, 7
    sizes = {"up": (hidden, inputs), "down": (outputs, hidden)}
    if gated:
        sizes["gate"] = (hidden, inputs)
    parts = {name: torch.randn(s, generator=rng, dtype=torch.float64) for name, s in sizes.items()}
    for name, size in sizes.items():
        parts[f"{name}_support"] = torch.rand(size, generator=rng) < 0.6
        parts[f"{name}_bias"] = torch.randn(size[0], generator=rng, dtype=torch.float64)
    parts["up_support"][:6] = False  # dead rows: neurons that output a constant
    parts["down_support"][:, 4:9] = False  # dead columns: neurons that nothing reads
    if gated:
        parts["gate_support"][3:8] = False
    return parts


def run(parts, x, activation, masked: bool):
    act = ACTIVATIONS[activation]

    def weight(name):
        value = parts[name]
        return folded(value, parts[f"{name}_support"]) if masked else value

    hidden = x @ weight("up").T + (0 if parts.get("up_bias") is None else parts["up_bias"])
    if parts.get("gate") is not None:
        gate = x @ weight("gate").T
        gate = gate if parts.get("gate_bias") is None else gate + parts["gate_bias"]
        hidden = act(gate) * hidden
    else:
        hidden = act(hidden)
    out = hidden @ weight("down").T
    return out if parts.get("down_bias") is None else out + parts["down_bias"]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("biased", [True, False])
def test_the_compact_network_is_the_masked_network(gated, activation, biased) -> None:
    parts = network(0, gated)
    if not biased:
        for name in [name for name in parts if name.endswith("_bias")]:
            del parts[name]
    small = compact_mlp(**parts, activation=activation, multiple=4)
    x = torch.randn(9, 10, generator=generator(1), dtype=torch.float64)
    expected = run(parts, x, activation, masked=True)
    got = run(small._asdict(), x, activation, masked=False)
    assert (got - expected).abs().max() < EXACT
    assert (small(x.view(3, 3, 10)).flatten(0, 1) - expected).abs().max() < EXACT
    assert small.up.shape[0] % 4 == 0
    assert small.kept.numel() < 24 - 5  # unread ones, and constant ones besides


def test_without_the_fold_the_output_would_be_wrong() -> None:
    parts = network(0, gated=False)
    small = compact_mlp(**parts, activation="gelu")
    constant = ~parts["up_support"].any(1)
    read = folded(parts["down"], parts["down_support"])[:, constant]
    shift = read @ ACTIVATIONS["gelu"](parts["up_bias"][constant])
    assert shift.norm() > 0.1
    assert torch.allclose(small.down_bias - parts["down_bias"], shift, atol=EXACT)


@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize("biased", [True, False])
def test_both_layers_are_one_call_where_the_kernel_is_built(rows, biased, monkeypatch) -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    cpp.build()
    parts = {k: v.float() if v.is_floating_point() else v for k, v in network(0, False).items()}
    if not biased:
        parts["up_bias"] = parts["down_bias"] = None
    small = compact_mlp(**parts, activation="gelu")
    calls = []
    real = cpp.run_chain
    monkeypatch.setattr(cpp, "run_chain", lambda x, c: calls.append(len(c.raw)) or real(x, c))
    x = torch.randn(rows, 10, generator=generator(1))
    expected = run(parts, x.double(), "gelu", masked=True).float()
    assert torch.allclose(small(x), expected, atol=1e-5)
    assert calls == ([2] if rows else [])
    with torch.no_grad():
        small.down.mul_(2.0)  # a write is seen
    shift = 0 if small.down_bias is None else small.down_bias
    assert torch.allclose(small(x), 2 * (expected - shift) + shift, atol=1e-5)
    small.down.requires_grad_()
    small(x).sum().backward()
    assert small.down.grad is not None
    assert len(calls) == (2 if rows else 0)


def test_copies_and_pickles_make_a_call_of_their_own() -> None:
    parts = {k: v.float() if v.is_floating_point() else v for k, v in network(0, False).items()}
    small, x = compact_mlp(**parts, activation="gelu"), torch.randn(5, 10)
    want = small(x)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(twin(x), want)
        with torch.no_grad():
            twin.up.mul_(0.0)
            twin.up_bias.zero_()
        assert torch.allclose(twin(x), small.down_bias.expand(5, -1), atol=1e-6)
        assert torch.equal(small(x), want)


def test_memory_that_was_given_away_and_back_is_not_taken_for_the_same() -> None:
    parts = {k: v.float() if v.is_floating_point() else v for k, v in network(0, False).items()}
    parts["up_bias"] = parts["down_bias"] = None
    small, x = compact_mlp(**parts, activation="relu"), torch.randn(5, 10)
    before = small(x)
    for factor in (4, 16, 64):
        small.down.data = small.down.data * 2
        small.down.data = small.down.data * 2
        assert torch.allclose(small(x), factor * before, rtol=1e-5, atol=1e-5)


def test_a_transform_does_not_enter_the_one_call() -> None:
    parts = {k: v.float() if v.is_floating_point() else v for k, v in network(0, False).items()}
    small = compact_mlp(**parts, activation="gelu")
    x, t = torch.randn(2, 5, 10, generator=generator(1))
    small(x)  # the copies are there
    value, slope = torch.func.jvp(small, (x,), (t,))
    step = 1e-2
    assert torch.allclose(value, small(x), atol=1e-5)
    assert torch.allclose(
        slope, (small(x + step * t) - small(x - step * t)) / (2 * step), atol=1e-2
    )
    assert torch.allclose(torch.func.vmap(small)(x), small(x), atol=1e-5)


def test_a_compact_network_compiles_and_exports() -> None:
    small = compact_mlp(**network(0, gated=True), activation="silu")

    class Net(torch.nn.Module):
        def forward(self, x):
            return small(x)

    x = torch.randn(9, 10, generator=generator(1), dtype=torch.float64)
    compiled = torch.compile(Net(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Net(), (x,)).module()
    for net in (compiled, exported):
        assert (net(x) - small(x)).abs().max() < EXACT


def test_problems_are_collected_and_raised_once() -> None:
    parts = network(0, gated=True)
    parts["down"] = parts["down"][:, :-1]
    parts["gate_support"] = None
    with pytest.raises(InputError, match=r"down reads 23.*must come together.*down_support"):
        compact_mlp(**parts, activation="silu")
    with pytest.raises(InputError, match=r"unknown activation 'sillu'.*silu"):
        compact_mlp(**network(0, gated=True), activation="sillu")
