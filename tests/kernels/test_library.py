"""The custom ops: opcheck, compile, export, autocast, gradients, FLOPs."""

import pytest
import torch

from probcomp.kernels import library, masked_linear, pack
from probcomp.kernels.library import block_backward_input, block_backward_weight, block_linear
from tests.kernels.supports import block_support, folded, generator, relative_error

BFLOAT16 = 1.5e-2  # inputs, weights and output rounded to 8 bits


def blocks(dtype=torch.float64, format="blocks"):
    weight = torch.randn(40, 56, generator=generator(0), dtype=dtype)
    support = block_support((40, 56), (16, 16), 0.5, seed=1)
    support &= torch.rand(40, 56, generator=generator(2)) < 0.9
    bias = torch.randn(40, generator=generator(3), dtype=dtype)
    return pack(weight, support, block=(16, 16), format=format, bias=bias), support


def op_arguments(packed, x, backend):
    scale = getattr(packed, "scale", None)
    extra = (packed.bitmap, scale, packed.bias, packed.shape[0])
    return (x, packed.val, list(packed.index), *extra, "none", backend, False)


@pytest.mark.parametrize("backend", ["gather", "dense"])
@pytest.mark.parametrize("format", ["blocks", "int8"])
def test_opcheck_of_the_block_product(backend: str, format: str) -> None:
    packed, _ = blocks(torch.float32, format)
    x = torch.randn(5, 56, generator=generator(4)).requires_grad_()
    if format == "blocks":
        packed.val.requires_grad_()
    packed.bias.requires_grad_()
    torch.library.opcheck(block_linear, op_arguments(packed, x, backend))


def test_opcheck_of_the_backward_products() -> None:
    packed, _ = blocks()
    grad = torch.randn(5, 40, generator=generator(4), dtype=torch.float64)
    x = torch.randn(5, 56, generator=generator(5), dtype=torch.float64)
    index = list(packed.index)
    inputs = (grad, packed.val, index, None, 56, "gather", False)
    torch.library.opcheck(block_backward_input, inputs)
    inputs = (grad, x, index, packed.bitmap, 16, 16, "gather")
    torch.library.opcheck(block_backward_weight, inputs)


@pytest.mark.parametrize("backend", ["gather", "dense", "auto"])
def test_gradients_are_those_of_the_masked_dense_product(backend: str) -> None:
    packed, support = blocks()
    packed.val.requires_grad_()
    packed.bias.requires_grad_()
    x = torch.randn(7, 56, generator=generator(4), dtype=torch.float64, requires_grad=True)
    out = masked_linear(x, packed, activation="gelu", backend=backend)
    weights = torch.randn(out.shape, generator=generator(5), dtype=torch.float64)
    ours = torch.autograd.grad((out * weights).sum(), (x, packed.val, packed.bias))

    dense = folded(packed.dense().detach(), support).requires_grad_()
    bias = packed.bias.detach().requires_grad_()
    expected = torch.nn.functional.gelu(x @ (dense * support).T + bias)
    dx, dw, db = torch.autograd.grad((expected * weights).sum(), (x, dense, bias))
    live = pack(dw * support, support, block=(16, 16), format="blocks")
    for got, want in zip(ours, (dx, live.val, db)):
        assert relative_error(got, want) < 1e-13
    assert (ours[1][packed.bitmap == 0] == 0).all()  # dead entries stay dead


@pytest.mark.parametrize(("density", "whole"), [(0.05, False), (0.6, True)])
def test_a_gradient_of_live_blocks_is_taken_the_faster_way(density, whole, monkeypatch) -> None:
    """Of all weights where many blocks live, of which the live blocks are then kept."""
    support = block_support((1024, 1024), (64, 64), density, seed=1)
    support[::7] &= torch.rand(147, 1024, generator=generator(2)) < 0.5
    packed = pack(torch.zeros(1024, 1024), support, block=(64, 64), format="blocks")
    grad, x = torch.randn(2, 40, 1024, generator=generator(3))
    taken = []
    real = library.gather.block_backward_weight
    monkeypatch.setattr(
        library.gather, "block_backward_weight", lambda *a: taken.append(1) or real(*a)
    )
    got = block_backward_weight(grad, x, list(packed.index), packed.bitmap, 64, 64, "auto")
    assert taken == ([] if whole else [1])
    want = pack(grad.double().t() @ x.double(), support, block=(64, 64), format="blocks")
    assert got.shape == packed.val.shape
    assert relative_error(got, want.val) < 2e-6
    assert (got[packed.bitmap == 0] == 0).all()


def test_gradcheck_in_float64() -> None:
    packed, _ = blocks()
    x = torch.randn(3, 56, generator=generator(4), dtype=torch.float64, requires_grad=True)
    val = packed.val.requires_grad_()

    def product(x, val):
        return block_linear(
            *op_arguments(packed, x, "gather")[:1], val, *op_arguments(packed, x, "gather")[2:]
        )

    # The bitmap projects the gradient onto live entries, which finite differences do not.
    object.__setattr__(packed, "bitmap", None)
    assert torch.autograd.gradcheck(product, (x, val))


@pytest.mark.parametrize("format", ["blocks", "int8", "compact", "runs"])
def test_compiles_in_one_graph_with_a_changing_batch(format: str) -> None:
    packed, _ = blocks(torch.float32, format)
    torch._dynamo.reset()
    run = torch.compile(
        lambda x: masked_linear(x, packed, activation="relu"), fullgraph=True, backend="aot_eager",
        dynamic=True,
    )  # fmt: skip
    for m in (2, 5, 9):
        x = torch.randn(m, 56, generator=generator(m))
        assert torch.allclose(run(x), masked_linear(x, packed, activation="relu"), atol=1e-5)


def test_exports_with_a_dynamic_batch_as_one_node() -> None:
    packed, _ = blocks(torch.float32)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return masked_linear(x, packed)

    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(Layer(), (torch.randn(4, 56),), dynamic_shapes=({0: batch},))
    names = [str(node.target) for node in program.graph.nodes]
    assert "probcomp.block_linear.default" in names
    x = torch.randn(11, 56)
    assert torch.allclose(program.module()(x), masked_linear(x, packed), atol=1e-5)


def test_autocast_runs_in_bfloat16() -> None:
    for format in ("blocks", "compact", "runs"):
        packed, _ = blocks(torch.float32, format)
        x = torch.randn(6, 56, generator=generator(4))
        with torch.autocast("cpu", torch.bfloat16):
            y = masked_linear(x, packed)
        assert y.dtype == torch.bfloat16
        expected = x.double() @ packed.dense().double().T + packed.bias.double()
        assert relative_error(y, expected) < BFLOAT16


@pytest.mark.slow
def test_inductor_compiles_forward_and_backward() -> None:
    packed, _ = blocks(torch.float32)
    val = packed.val.requires_grad_()
    torch._dynamo.reset()
    run = torch.compile(lambda x: masked_linear(x, packed, activation="gelu"), fullgraph=True)
    x = torch.randn(6, 56)
    got = torch.autograd.grad(run(x).sum(), val)[0]
    want = torch.autograd.grad(masked_linear(x, packed, activation="gelu").sum(), val)[0]
    assert torch.allclose(got, want, atol=1e-5)
