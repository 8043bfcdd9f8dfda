"""The sampled layers as custom ops: opcheck, compile, export, autocast."""

import pytest
import torch

from probcomp.kernels import noisy_linear, pack, reparameterised_linear
from probcomp.kernels.library_noise import add_noise, noisy_blocks, noisy_matrix
from tests.kernels.supports import block_support, generator


def matrices(dtype=torch.float64):
    mean = torch.randn(7, 5, generator=generator(0), dtype=dtype)
    variance = torch.rand(7, 5, generator=generator(1), dtype=dtype)
    bias = torch.randn(7, generator=generator(2), dtype=dtype)
    x = torch.randn(4, 5, generator=generator(3), dtype=dtype)
    return x, mean, variance, bias


def blocks(dtype=torch.float64):
    weight = torch.randn(40, 48, generator=generator(0), dtype=dtype)
    support = block_support((40, 48), (16, 16), 0.5, 1)
    bias = torch.randn(40, generator=generator(2), dtype=dtype)
    packed = pack(weight, support, block=(16, 16), format="blocks", bias=bias)
    variance = torch.rand(packed.val.shape, generator=generator(3), dtype=dtype)
    if packed.bitmap is not None:
        variance = variance * packed.bitmap
    return packed, variance, torch.randn(6, 48, generator=generator(4), dtype=dtype)


def test_opcheck_of_whole_matrices() -> None:
    inputs = [tensor.requires_grad_() for tensor in matrices()]
    torch.library.opcheck(noisy_matrix, (*inputs, 3, False))
    torch.library.opcheck(noisy_matrix, (*inputs[:3], None, 3, False))


def test_opcheck_of_blocks() -> None:
    packed, variance, x = blocks()
    learnt = [t.requires_grad_() for t in (x, packed.val, variance)]
    extra = (list(packed.index), packed.bitmap, packed.bias.requires_grad_(), 40, 3, "gather")
    torch.library.opcheck(noisy_blocks, (*learnt, *extra))


def test_gradcheck_at_a_fixed_seed() -> None:
    inputs = [tensor.requires_grad_() for tensor in matrices()]
    assert torch.autograd.gradcheck(lambda *a: noisy_matrix(*a, 3, False)[0], inputs)
    packed, variance, x = blocks()
    at = (list(packed.index), None, None, 40, 3, "gather")
    learnt = [t.detach().requires_grad_() for t in (x[:2], packed.val, variance + 0.1)]
    assert torch.autograd.gradcheck(lambda *a: noisy_blocks(*a, *at)[0], learnt)


def test_the_second_result_is_the_slope_of_the_noise_in_its_variance() -> None:
    mean = torch.zeros(3, 4, dtype=torch.float64)
    variance = torch.rand(3, 4, generator=generator(0), dtype=torch.float64).requires_grad_()
    y, half = add_noise(mean, variance, None, seed=5)
    assert torch.allclose(torch.autograd.grad(y.sum(), variance)[0], half.detach(), atol=1e-12)
    dead, none = add_noise(mean, torch.zeros_like(mean), None, seed=5)
    assert not dead.any()
    assert not none.any()
    assert not noisy_matrix(*[t.requires_grad_() for t in matrices()], 3, False)[1].requires_grad


@pytest.mark.parametrize("kind", ["matrix", "blocks"])
def test_compiles_in_one_graph_and_exports_as_one_node(kind: str) -> None:
    x, mean, variance, bias = matrices(torch.float32)
    packed, spread, wide = blocks(torch.float32)

    class Layer(torch.nn.Module):
        def forward(self, x, seed: int):
            if kind == "matrix":
                return noisy_linear(x, mean, variance, bias, seed=seed)
            return reparameterised_linear(x, packed, spread, seed=seed)

    layer, data = Layer(), x if kind == "matrix" else wide
    torch._dynamo.reset()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for seed in (1, 2, 3):
        assert torch.equal(run(data, seed), layer(data, seed))
    program = torch.export.export(layer, (data, 1))
    names = [str(node.target) for node in program.graph.nodes]
    wanted = {"matrix": "noisy_linear", "blocks": "noisy_block_linear"}[kind]
    assert f"probcomp.{wanted}.default" in names
    assert torch.equal(program.module()(data, 1), layer(data, 1))


def test_autocast_draws_in_float32() -> None:
    x, mean, variance, bias = matrices(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = noisy_linear(x.bfloat16(), mean, variance, bias, seed=3)
    want = noisy_linear(x.bfloat16().float(), mean, variance, bias, seed=3)
    assert y.dtype == torch.float32
    assert torch.equal(y, want)
    packed, spread, wide = blocks(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = reparameterised_linear(wide, packed, spread, seed=3)
    assert torch.equal(y, reparameterised_linear(wide, packed, spread, seed=3))
