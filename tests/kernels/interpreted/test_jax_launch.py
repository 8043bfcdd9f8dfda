"""The launches from JAX, by a stand-in that takes JAX-Triton's arguments and interprets the kernel.

`jax_triton` itself runs on a GPU only. The stand-in holds the caller to its contract: inputs first,
outputs appended, everything else a constant by name.
"""

import importlib.machinery
import sys
import types

import jax
import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import pack
from probcomp.kernels.jax_blocks import JaxBlocks, masked_linear, to_jax
from tests.kernels.supports import block_support, folded, generator

FLOAT32 = 2e-5


def interpreted_call(*inputs, kernel, out_shape, grid, num_warps, num_stages, **constants):
    assert isinstance(grid, tuple)
    assert num_warps in (2, 4, 8)
    assert num_stages >= 1
    names = kernel.arg_names
    outputs = [torch.full(o.shape, torch.nan, dtype=torch.float32) for o in out_shape]
    assert [str(o.dtype) for o in out_shape] == ["float32"] * len(outputs)
    held = [x if isinstance(x, int) else torch.tensor(np.asarray(x)) for x in inputs]
    positional = [*held, *outputs]
    assert set(names[len(positional) :]) == set(constants)
    assert all(n.endswith("_ptr") for n in names[len(held) : len(positional)])
    kernel[grid](*positional, **constants)
    return [jax.numpy.asarray(o.numpy()) for o in outputs]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch) -> list[str]:
    calls: list[str] = []

    def record(*args, kernel, **options):
        calls.append(kernel.fn.__name__)
        return interpreted_call(*args, kernel=kernel, **options)

    module = types.ModuleType("jax_triton")
    module.triton_call = record  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("jax_triton", None)
    monkeypatch.setitem(sys.modules, "jax_triton", module)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return calls


def example(density: float = 0.5) -> tuple[JaxBlocks, torch.Tensor, torch.Tensor]:
    weight = torch.randn(40, 70, generator=generator(0))
    support = block_support((40, 70), (16, 32), density, 1)
    bias = torch.randn(40, generator=generator(2))
    packed = pack(weight, support, block=(16, 32), format="blocks", bias=bias)
    return to_jax(packed), folded(weight, support), bias.double()


@pytest.mark.parametrize("leading", [(1,), (3, 7)])
def test_the_product_is_the_kernels(leading, stand_in) -> None:
    blocks, dense, bias = example()
    x = torch.randn(*leading, 70, generator=generator(3))
    y = np.asarray(masked_linear(x.numpy(), blocks))
    want = (x.double() @ dense.T + bias).numpy()
    assert stand_in == ["block_forward"]
    assert y.shape == (*leading, 40)
    assert np.abs(y - want).max() < FLOAT32


def test_the_gradients_are_the_kernels(stand_in) -> None:
    blocks, _, _ = example()
    x = torch.randn(300, 70, generator=generator(3)).numpy()

    def loss(x, val, bias, backend):
        given = blocks._replace(val=val, bias=bias)
        return (masked_linear(x, given, backend=backend) ** 2).sum()

    grads = [
        jax.grad(loss, argnums=(0, 1, 2))(x, blocks.val, blocks.bias, backend)
        for backend in ("triton", "xla")
    ]
    assert stand_in == ["block_forward", "block_backward_input", "block_backward_weight"]
    for ours, theirs in zip(*grads):
        scale = np.abs(np.asarray(theirs)).max()
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < FLOAT32 * scale


def test_what_the_kernels_do_not_run_goes_to_xla(stand_in) -> None:
    blocks, _, bias = example(0.0)
    x = torch.randn(3, 70, generator=generator(3)).numpy()
    assert np.allclose(np.asarray(masked_linear(x, blocks)), bias.numpy())
    with pytest.raises(InputError, match="nothing to multiply"):
        masked_linear(x, blocks, backend="triton")
    odd = to_jax(pack(torch.ones(8, 70), torch.ones(8, 70) > 0, block=(8, 10), format="blocks"))
    masked_linear(x, odd)
    with pytest.raises(InputError, match="powers of two"):
        masked_linear(x, odd, backend="triton")
    assert stand_in == []
