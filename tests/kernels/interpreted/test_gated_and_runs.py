"""The gated MLP and clustered-run kernels, interpreted."""

import pytest
import torch

from probcomp.kernels import gated, gated_mlp_hidden, masked_linear, pack
from tests.kernels.gated_cases import parts, reference
from tests.kernels.supports import bursts, generator, relative_error

BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
@pytest.mark.parametrize("listed", [False, True])
def test_gated_mlp(dtype, listed) -> None:
    p = parts(dtype=dtype)
    neurons = torch.randperm(90, generator=generator(1))[:37] if listed else None
    y = gated_mlp_hidden(**p, neurons=neurons, backend="triton")
    assert y.dtype == dtype
    assert relative_error(y, reference(p, "silu", neurons)) < BOUNDS[dtype]


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "none"])
def test_gated_mlp_without_biases(activation) -> None:
    p = {name: tensor for name, tensor in parts().items() if "bias" not in name}
    y = gated_mlp_hidden(**p, activation=activation, backend="triton")
    assert relative_error(y, reference(p, activation, None)) < BOUNDS[torch.float32]


def test_gated_mlp_without_a_live_neuron_is_empty() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert gated_mlp_hidden(**parts(), neurons=none, backend="triton").shape == (19, 0)


def test_opcheck_of_the_gated_operator() -> None:
    p = parts()
    args = (p["x"], p["gate"], p["up"], p["gate_bias"], None, torch.tensor([1, 5]), "silu")
    torch.library.opcheck(gated.gated_hidden, args)


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
@pytest.mark.parametrize("m", [1, 18])
def test_runs(dtype, m) -> None:
    support = bursts(70, 150, patterns=4)
    weight, bias = torch.randn(70, 150, generator=generator(1)), torch.randn(70)
    packed = pack(weight, support, format="runs", bias=bias).to(dtype=dtype)
    x = torch.randn(m, 150, generator=generator(2)).to(dtype)
    y = masked_linear(x, packed, activation="relu", backend="triton")
    want = torch.relu(x.double() @ packed.dense().double().T + packed.bias.double())
    assert relative_error(y, want) < BOUNDS[dtype]


def test_runs_without_a_live_weight_output_the_bias() -> None:
    bias = torch.randn(20)
    nothing = torch.zeros(20, 40, dtype=torch.bool)
    packed = pack(torch.randn(20, 40), nothing, format="runs", bias=bias)
    y = masked_linear(torch.randn(3, 40), packed, backend="triton")
    assert torch.equal(y, bias.expand(3, 20))
