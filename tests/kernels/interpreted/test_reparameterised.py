"""The reparameterisation kernel, interpreted: moments, gradients, and noise that is well placed."""

import pytest
import torch

from probcomp.inference.training import layers
from probcomp.kernels import masked_linear, noisy_linear, pack, reparameterised_linear
from probcomp.kernels import reparameterised as kernel
from probcomp.kernels.gpu import reparameterised as gpu
from probcomp.kernels.gpu.reparameterised import DENSE_BLOCK
from tests.kernels.supports import block_support, generator
from tests.kernels.test_reparameterised import layer, moments


def draw(packed, variance, seed=1):
    return lambda x: reparameterised_linear(x, packed, variance, seed=seed, backend="triton")


def test_outputs_have_the_moments_of_the_closed_form() -> None:
    packed, variance = layer(torch.float32)
    x = torch.randn(1, 48, generator=generator(3))
    moments(draw(packed, variance), packed, variance, x, draws=4000)


def test_noise_is_independent_across_tiles_and_columns_and_belongs_to_the_seed() -> None:
    support = torch.ones(64, 16, dtype=torch.bool)
    packed = pack(torch.zeros(64, 16), support, block=(32, 16), format="blocks")
    variance = torch.full_like(packed.val, 1 / 16)
    x = torch.ones(300, 16)
    noise = draw(packed, variance)(x)
    assert torch.equal(noise, draw(packed, variance)(x))
    assert not torch.equal(noise, draw(packed, variance, seed=2)(x))
    # Repeated counters would repeat values; a few float32 values meet by chance.
    assert noise.unique().numel() > 0.999 * noise.numel()
    assert torch.equal(noise[:17], draw(packed, variance)(x[:17]))
    correlation = torch.corrcoef(noise.T) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 300**0.5
    rows = torch.corrcoef(noise[:64]) - torch.eye(64)
    assert rows.abs().max() < 5.5 / 64**0.5


def test_the_mean_is_the_masked_product_and_variance_zero_is_no_noise() -> None:
    packed, variance = layer(torch.float32)
    x = torch.randn(5, 48, generator=generator(3))
    y = draw(packed, torch.zeros_like(variance))(x)
    assert torch.allclose(y, masked_linear(x, packed, backend="gather"), atol=1e-5)


@pytest.mark.parametrize("m", [3, 20])
def test_gradients_follow_the_noise_that_was_drawn(m) -> None:
    packed, variance = layer()
    x = torch.randn(m, 48, generator=generator(3), dtype=torch.float64, requires_grad=True)
    packed.val.requires_grad_()
    variance = variance.clamp_min(0.1 * (packed.bitmap > 0)).requires_grad_()
    y = draw(packed, variance)(x)
    seed = torch.randn(y.shape, generator=generator(4), dtype=torch.float64)
    ours = torch.autograd.grad((y * seed).sum(), (x, packed.val, variance))
    for place, tensor in enumerate((x, packed.val, variance)):
        step = torch.randn(tensor.shape, generator=generator(5), dtype=torch.float64)
        if place:
            step = step * packed.bitmap
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                tensor.add_(step, alpha=sign * 1e-6)
                ends.append((draw(packed, variance)(x) * seed).sum())
                tensor.sub_(step, alpha=sign * 1e-6)
        slope = (ends[0] - ends[1]) / 2e-6
        assert torch.allclose((ours[place] * step).sum(), slope, rtol=1e-5, atol=1e-5)


def test_blocks_of_another_shape() -> None:
    support = block_support((70, 50), (64, 32), 0.7, 1)
    packed = pack(torch.randn(70, 50), support, block=(64, 32), format="blocks")
    y = draw(packed, torch.zeros_like(packed.val))(torch.ones(2, 50))
    assert torch.allclose(y, masked_linear(torch.ones(2, 50), packed), atol=1e-4)


@pytest.mark.parametrize(("m", "n", "k"), [(3, 40, 50), (17, 64, 32), (1, 5, 1)])
def test_whole_matrices_draw_what_blocks_that_all_live_draw(m, n, k) -> None:
    mean = torch.randn(n, k, generator=generator(0))
    variance = torch.rand(n, k, generator=generator(1))
    bias, x = torch.randn(n, generator=generator(2)), torch.randn(m, k, generator=generator(3))
    every = torch.ones(n, k, dtype=torch.bool)
    packed = pack(mean, every, block=DENSE_BLOCK, format="blocks", bias=bias)
    spread = pack(variance, every, block=DENSE_BLOCK, format="blocks").val
    want = reparameterised_linear(x, packed, spread, seed=9, backend="triton")
    got = noisy_linear(x, mean, variance, bias, seed=9, backend="triton")
    assert torch.allclose(got, want, atol=1e-5)


def test_a_bayesian_layer_trains_through_the_kernel(monkeypatch) -> None:
    """On a GPU a layer asks `fused_noise`; the answer is given for it here."""
    for module in (layers, kernel):
        monkeypatch.setattr(module, "fused_noise", lambda x: True)
    calls = []
    real = gpu.launch_dense
    monkeypatch.setattr(gpu, "launch_dense", lambda *a: calls.append(a[-1]) or real(*a))
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    noise = layers.Noise(torch.Generator().manual_seed(0))
    layers.to_bayesian(model, noise=noise)
    x = torch.randn(4, 6)
    first, second = model.train()(x), model(x)
    assert len(set(calls)) == 4  # every pass of every layer has a seed of its own
    assert not torch.equal(first, second)
    second.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    noise.generator.manual_seed(0)
    assert torch.equal(model(x), first)  # a checkpoint restores the generator, and the noise
    model.eval()(x)
    assert len(calls) == 6
