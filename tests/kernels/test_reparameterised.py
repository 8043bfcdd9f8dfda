"""Local reparameterisation in torch: moments, gradients, determinism."""

import dataclasses

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import noisy_linear, pack, reparameterised_linear
from probcomp.kernels.reparameterised import FEW_ROWS, fused_noise
from tests.kernels.supports import block_support, generator

# z-scores of moments over 40000 draws: a failure by chance about once in 10^7 runs.
SIGMAS = 5.5


def layer(dtype=torch.float64):
    weight = torch.randn(40, 48, generator=generator(0), dtype=dtype)
    support = block_support((40, 48), (16, 16), 0.5, 1)
    support[5] = False
    packed = pack(weight, support, block=(16, 16), format="blocks", bias=torch.randn(40))
    rough = pack(torch.rand(40, 48, generator=generator(2), dtype=dtype), support, block=(16, 16),
                 format="blocks")  # fmt: skip
    return packed, rough.val


def moments(draw, packed, variance, x, draws=40_000) -> None:
    """The mean and variance of draws against the closed form, by z-score."""
    y = draw(x.expand(draws, -1)).double()
    dense = packed.dense().double()
    spread = dataclasses.replace(packed, val=variance, bias=None).dense().double()
    mean = (x.double() @ dense.T + packed.bias.double()).squeeze(0)
    var = (x.double().square() @ spread.T).squeeze(0)
    live = var > 0
    z_mean = (y.mean(0) - mean)[live] / (var[live] / draws).sqrt()
    z_var = (y.var(0) / var.clamp_min(1e-30) - 1)[live] / (2 / draws) ** 0.5
    assert z_mean.abs().max() < SIGMAS
    assert z_var.abs().max() < SIGMAS
    assert (y[:, ~live] - mean[~live]).abs().max() < 1e-5  # no support: exactly no noise


def test_outputs_have_the_moments_of_the_closed_form() -> None:
    packed, variance = layer(torch.float32)
    x = torch.randn(1, 48, generator=generator(3))
    moments(lambda x: reparameterised_linear(x, packed, variance, seed=1), packed, variance, x)


def test_gradients_are_those_of_the_formula() -> None:
    packed, variance = layer()
    x = torch.randn(6, 48, generator=generator(3), dtype=torch.float64, requires_grad=True)
    packed.val.requires_grad_()
    packed.bias.requires_grad_()
    variance.requires_grad_()
    inputs = (x, packed.val, variance, packed.bias)
    y = reparameterised_linear(x, packed, variance, seed=7)
    seed = torch.randn(y.shape, generator=generator(4), dtype=torch.float64)
    ours = torch.autograd.grad((y * seed).sum(), inputs)

    noise = torch.randn(y.shape, generator=generator(7), dtype=torch.float64)
    dense, spread = (
        dataclasses.replace(packed, val=v, bias=None).dense() for v in (packed.val, variance)
    )
    total = x.square() @ spread.T
    safe = torch.where(total > 0, total, torch.ones_like(total))
    want_y = x @ dense.T + packed.bias + torch.where(total > 0, safe.sqrt(), 0.0) * noise
    assert torch.allclose(y, want_y, atol=1e-12)
    want = list(torch.autograd.grad((want_y * seed).sum(), inputs))
    for place in (1, 2):  # dead entries of live blocks stay dead
        want[place] = want[place] * packed.bitmap
    for got, expected in zip(ours, want):
        assert torch.allclose(got, expected, atol=1e-10)


def test_a_sum_over_the_weights_does_not_depend_on_the_order_of_the_blocks() -> None:
    """Such as a divergence from a standard normal, of the live entries."""

    def divergence(mean, variance, live):
        term = 0.5 * (mean.square() + variance - variance.log() - 1)
        return term[live].sum()

    packed, variance = layer()
    mean, spread = packed.dense(), dataclasses.replace(packed, val=variance, bias=None).dense()
    want = divergence(mean, spread, spread > 0)
    order = torch.randperm(40, generator=generator(4))
    moved = [pack(m[order], (spread > 0)[order], block=(16, 16), format="blocks")
             for m in (mean, spread)]  # fmt: skip
    assert moved[0].val.shape != packed.val.shape  # other blocks live
    for means, spreads in ((packed.val, variance), (moved[0].val, moved[1].val)):
        found = divergence(means, spreads, spreads > 0)
        assert (found - want).abs() < 1e-12 * want.abs()


def test_the_same_seed_gives_the_same_bits() -> None:
    packed, variance = layer()
    x = torch.randn(2, 3, 48, dtype=torch.float64)
    one, two, other = (reparameterised_linear(x, packed, variance, seed=s) for s in (1, 1, 2))
    assert one.shape == (2, 3, 40)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_bad_input_is_refused() -> None:
    packed, variance = layer()
    with pytest.raises(InputError, match="variance has shape"):
        reparameterised_linear(torch.zeros(2, 48), packed, variance[:1], seed=0)
    with pytest.raises(InputError, match=r"expected \[..., 48\]"):
        reparameterised_linear(torch.zeros(2, 47), packed, variance, seed=0)
    with pytest.raises(InputError, match="unknown reparameterised backend"):
        reparameterised_linear(torch.zeros(2, 48), packed, variance, seed=0, backend="cpp")


def test_whole_matrices_are_blocks_that_all_live() -> None:
    mean = torch.randn(7, 5, generator=generator(0), dtype=torch.float64, requires_grad=True)
    variance = torch.rand(7, 5, generator=generator(1), dtype=torch.float64).requires_grad_()
    bias = torch.randn(7, generator=generator(2), dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 5, generator=generator(3), dtype=torch.float64, requires_grad=True)
    inputs = (x, mean, variance, bias)
    y = noisy_linear(x, mean, variance, bias, seed=4)
    weights = torch.randn(y.shape, generator=generator(5), dtype=torch.float64)
    ours = torch.autograd.grad((y * weights).sum(), inputs)
    noise = torch.randn(6, 7, generator=generator(4), dtype=torch.float64).view(2, 3, 7)
    want_y = x @ mean.T + bias + (x.square() @ variance.T).sqrt() * noise
    assert torch.allclose(y, want_y, atol=1e-12)
    for got, want in zip(ours, torch.autograd.grad((want_y * weights).sum(), inputs)):
        assert torch.allclose(got, want, atol=1e-10)
    still = noisy_linear(x, mean, torch.zeros_like(variance), None, seed=4)
    assert torch.allclose(still, x @ mean.T, atol=1e-12)
    with pytest.raises(InputError, match=r"must be \[..., K\]"):
        noisy_linear(x, mean, variance[1:], None, seed=0)
    with pytest.raises(InputError, match="unknown reparameterised backend"):
        noisy_linear(x, mean, variance, None, seed=0, backend="cpp")


def test_the_kernel_is_for_few_rows_on_a_gpu() -> None:
    class Gpu(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    def rows(m: int) -> torch.Tensor:
        return torch.zeros(m, 4).as_subclass(Gpu)

    assert fused_noise(rows(1))
    assert fused_noise(rows(FEW_ROWS))
    assert not fused_noise(rows(FEW_ROWS + 1))
    assert not fused_noise(rows(0))
    assert not fused_noise(rows(1).double())
    assert not fused_noise(torch.zeros(4, 4))


@pytest.mark.parametrize("size", [3, 9])
def test_a_bias_of_another_size_is_refused(size: int) -> None:
    x, mean = torch.randn(2, 4), torch.randn(8, 4)
    with pytest.raises(InputError, match=r"bias has shape .* expected \[8\]"):
        noisy_linear(x, mean, mean.square(), torch.zeros(size), seed=1)
