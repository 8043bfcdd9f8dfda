"""The JAX product and its gradient against the float64 masked product and PyTorch's gradient."""

import importlib.util

import jax
import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import masked_linear as torch_linear
from probcomp.kernels import pack
from probcomp.kernels.jax_blocks import masked_linear, to_jax
from tests.kernels.supports import block_support, generator

FLOAT32 = 2e-5  # absolute, sums of up to 70 terms of order one


def example(density=0.5):
    weight = torch.randn(40, 70, generator=generator(0))
    support = block_support((40, 70), (16, 32), density, 1)
    bias = torch.randn(40, generator=generator(2))
    return pack(weight, support, block=(16, 32), format="blocks", bias=bias)


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("leading", [(1,), (2, 3), (0,)])
def test_the_product(density, leading) -> None:
    packed = example(density)
    x = torch.randn(*leading, 70, generator=generator(3))
    got = np.asarray(jax.jit(lambda x: masked_linear(x, to_jax(packed)))(x.numpy()))
    want = x.double() @ packed.dense().double().T + packed.bias.double()
    assert got.shape == (*leading, 40)
    assert np.abs(got - want.numpy()).max(initial=0.0) < FLOAT32


def test_the_gradients() -> None:
    packed = example()
    x = torch.randn(5, 70, generator=generator(3), requires_grad=True)
    packed.val.requires_grad_()
    packed.bias.requires_grad_()
    blocks = to_jax(packed)

    def loss(x, val, bias):
        return (masked_linear(x, blocks._replace(val=val, bias=bias)) ** 2).sum()

    grads = jax.grad(loss, argnums=(0, 1, 2))(x.detach().numpy(), blocks.val, blocks.bias)
    # PyTorch projects onto live entries of a block; here every entry of these blocks lives.
    assert packed.bitmap is None
    want = torch.autograd.grad(
        torch_linear(x, packed, backend="gather").square().sum(), (x, packed.val, packed.bias)
    )
    for ours, theirs in zip(grads, want):
        assert np.abs(np.asarray(ours) - theirs.numpy()).max() < 50 * FLOAT32


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected \[..., 70\]"):
        masked_linear(np.zeros((2, 3), np.float32), to_jax(example()))
    with pytest.raises(InputError, match="takes a BlockWeight"):
        to_jax(pack(torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool)))
    with pytest.raises(InputError, match="convert to bfloat16 in JAX"):
        to_jax(example().to(dtype=torch.bfloat16))


def test_the_triton_kernels_need_a_gpu_and_say_what_is_missing() -> None:
    blocks, x = to_jax(example()), np.zeros((2, 70), np.float32)
    if jax.default_backend() == "gpu" and importlib.util.find_spec("jax_triton"):
        pytest.skip("this machine can run them")
    with pytest.raises(InputError, match=r"jax_triton is not installed|not on a GPU"):
        masked_linear(x, blocks, backend="triton")
    with pytest.raises(InputError, match="unknown JAX backend"):
        masked_linear(x, blocks, backend="cuda")


@pytest.mark.gpu
def test_the_triton_kernels_agree_with_xla_on_a_gpu() -> None:
    pytest.importorskip("jax_triton", reason="jax_triton is not installed")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    blocks = to_jax(example())
    x = torch.randn(33, 70, generator=generator(3)).numpy()

    def loss(x, val, backend):
        return (masked_linear(x, blocks._replace(val=val), backend=backend) ** 2).sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    ours, theirs = (jax.tree.leaves(run(x, blocks.val, name)) for name in ("triton", "xla"))
    for one, other in zip(ours, theirs):
        scale = np.abs(np.asarray(other)).max()
        assert np.abs(np.asarray(one) - np.asarray(other)).max() < 2e-3 * scale
