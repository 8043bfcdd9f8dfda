"""The block kernels, interpreted, against the float64 masked product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.kernels import masked_linear, pack
from probcomp.kernels.activations import ACTIVATIONS
from probcomp.kernels.gpu import block_forward
from tests.kernels.supports import block_support, generator, relative_error

# Relative to the norm of the result; the interpreter multiplies in full precision.
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def example(n, k, block, density, dtype=torch.float32, seed=0, bias=True, format="blocks"):
    weight = torch.randn(n, k, generator=generator(seed), dtype=torch.float64)
    support = block_support((n, k), block, density, seed + 1)
    extra = torch.randn(n, generator=generator(seed + 2), dtype=torch.float64) if bias else None
    return pack(weight, support, block=block, format="blocks", bias=extra).to(dtype=dtype)


def reference(x, packed, activation="none"):
    y = x.double() @ packed.dense().double().T
    y = y if packed.bias is None else y + packed.bias.double()
    return ACTIVATIONS[activation](y)


def close(got, want, dtype):
    return got.isfinite().all() and relative_error(got, want) < BOUNDS[dtype]


@settings(max_examples=20)
@given(
    n=st.integers(1, 70), k=st.integers(1, 70), m=st.sampled_from([1, 2, 15, 16, 17, 33]),
    block=st.sampled_from([(16, 16), (32, 16), (64, 32), (16, 64)]),
    density=st.sampled_from([0.3, 1.0]), biased=st.booleans(), seed=st.integers(0, 10**6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
)  # fmt: skip
def test_forward(n, k, m, block, density, biased, seed, activation) -> None:
    packed = example(n, k, block, density, seed=seed, bias=biased)
    x = torch.randn(m, k, generator=generator(seed + 3))
    y = masked_linear(x, packed, activation=activation, backend="triton")
    want = reference(x, packed, activation)
    assert (y - want).norm() <= BOUNDS[torch.float32] * (1 + want.norm())


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
@pytest.mark.parametrize("m", [1, 33])
def test_forward_dtypes(dtype, m) -> None:
    packed = example(96, 80, (32, 16), 0.4, dtype)
    x = torch.randn(m, 80, generator=generator(5)).to(dtype)
    y = masked_linear(x, packed, activation="gelu", backend="triton")
    assert y.dtype == dtype
    assert close(y, reference(x, packed, "gelu"), dtype)


def worst_row(got, want):
    """Largest difference of a row over the largest entry of that row, worst of all rows."""
    apart = (got.double() - want).abs().amax(-1) / want.abs().amax(-1).clamp_min(1e-30)
    return float(apart.nan_to_num(torch.inf).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("m", [1, 31, 128])
def test_every_row_is_as_near_as_all_together(dtype, m) -> None:
    packed = example(96, 80, (32, 16), 0.5, dtype)
    x = torch.randn(m, 80, generator=generator(5)).to(dtype)
    y, want = masked_linear(x, packed, backend="triton"), reference(x, packed)
    assert relative_error(y, want) < BOUNDS[dtype]
    assert worst_row(y, want) < 4 * BOUNDS[dtype]  # a row's largest error, not its mean square


def test_linearity() -> None:
    packed = example(64, 48, (32, 16), 0.5, torch.float64, bias=False)
    a, b = torch.randn(2, 17, 48, generator=generator(2), dtype=torch.float64)
    together = masked_linear(2 * a - 3 * b, packed, backend="triton")
    first, second = (masked_linear(v, packed, backend="triton") for v in (a, b))
    assert relative_error(together, 2 * first - 3 * second) < BOUNDS[torch.float64]


@pytest.mark.parametrize("m", [1, 17])
def test_moving_the_blocks_of_all_rows_moves_nothing(m) -> None:
    """Block columns in another order, and the inputs with them: the same sums, rounded anew."""
    weight = torch.randn(64, 96, generator=generator(0))
    support = block_support((64, 96), (32, 16), 0.6, 1)
    order = torch.randperm(6, generator=generator(2))
    order = (16 * order[:, None] + torch.arange(16)).flatten()
    x = torch.randn(m, 96, generator=generator(3))
    base, moved = (
        pack(w, s, block=(32, 16), format="blocks")
        for w, s in ((weight, support), (weight[:, order], support[:, order]))
    )
    y = masked_linear(x, base, backend="triton")
    again = masked_linear(x[:, order], moved, backend="triton")
    assert relative_error(again, y) < BOUNDS[torch.float32]


def test_an_infinity_in_a_live_column_poisons_its_own_row_only() -> None:
    packed = example(32, 32, (16, 16), 1.0)
    x = torch.randn(20, 32, generator=generator(1))
    x[2, 3] = float("inf")
    finite = masked_linear(x, packed, backend="triton").isfinite().all(1)
    assert finite.tolist() == [row != 2 for row in range(20)]


@pytest.mark.parametrize("m", [1, 17])
def test_an_empty_block_row_outputs_act_of_the_bias(m) -> None:
    support = torch.ones(48, 32, dtype=torch.bool)
    support[16:32] = False
    bias = torch.randn(48, generator=generator(0))
    packed = pack(torch.randn(48, 32), support, block=(16, 16), format="blocks", bias=bias)
    y = masked_linear(torch.randn(m, 32), packed, activation="relu", backend="triton")
    assert torch.equal(y[:, 16:32], torch.relu(bias[16:32]).expand(m, 16))


@pytest.mark.parametrize("wanted", [("x",), ("val",), ("bias",), ("x", "bias")])
def test_gradients_of_some_inputs_only(wanted) -> None:
    packed = example(48, 80, (16, 32), 0.4, torch.float64)
    x = torch.randn(5, 80, generator=generator(5), dtype=torch.float64)
    parts = {"x": x, "val": packed.val, "bias": packed.bias}
    every = []
    for names in (parts, wanted):
        for name, tensor in parts.items():
            tensor.requires_grad_(name in names)
        y = masked_linear(x, packed, backend="triton").square().sum()
        every.append(dict(zip(names, torch.autograd.grad(y, [parts[n] for n in names]))))
    for name in wanted:
        assert torch.equal(every[1][name], every[0][name])


@pytest.mark.parametrize("m", [0, 1, 5])
def test_no_live_block_outputs_the_bias(m) -> None:
    packed = example(40, 40, (16, 16), 0.0)
    y = masked_linear(torch.randn(m, 40), packed, backend="triton")
    assert torch.equal(y, packed.bias.expand(m, 40))


def test_awkward_strides() -> None:
    packed = example(48, 48, (16, 16), 0.5)
    wide = torch.randn(20, 96, generator=generator(1))
    for x in (
        wide[:, :48],
        wide[:, ::2],
        wide[:1, :48].expand(20, 48),
        wide.view(4, 5, 96)[..., :48],
    ):
        y = masked_linear(x, packed, backend="triton")
        assert close(y, reference(x, packed), torch.float32)


def test_what_no_live_block_reads_does_not_reach_the_output() -> None:
    support = torch.zeros(32, 32, dtype=torch.bool)
    support[:, :16] = True
    packed = pack(torch.randn(32, 32), support, block=(16, 16), format="blocks")
    for m in (1, 20):
        x = torch.randn(m, 32)
        x[:, 20], x[:, 21] = float("nan"), float("inf")
        assert masked_linear(x, packed, backend="triton").isfinite().all()


def test_a_row_has_the_same_bits_alone_and_in_a_batch() -> None:
    packed = example(64, 64, (16, 16), 0.5)
    x = torch.randn(16, 64, generator=generator(1))
    batch = masked_linear(x, packed, backend="triton")
    assert torch.equal(batch, masked_linear(x, packed, backend="triton"))
    assert torch.equal(batch[3:9], masked_linear(x[3:9], packed, backend="triton"))


def test_a_long_row_is_cut_and_added_in_order() -> None:
    support = torch.zeros(128, 256, dtype=torch.bool)
    support[32:48] = True  # one block row of sixteen blocks
    support[64:80, :16] = True
    weight = torch.randn(128, 256, generator=generator(0))
    bias = torch.randn(128, generator=generator(1))
    packed = pack(weight, support, block=(16, 16), format="blocks", bias=bias)
    work = block_forward.pieces(packed.crow, packed.row_order)
    assert work["split"]
    assert int((work["hi"] - work["lo"]).max()) <= 2
    x = torch.randn(18, 256, generator=generator(2))
    y = masked_linear(x, packed, activation="silu", backend="triton")
    assert close(y, reference(x, packed, "silu"), torch.float32)


def test_even_rows_are_not_cut_and_start_with_the_longest() -> None:
    packed = example(64, 64, (16, 16), 0.5)
    work = block_forward.pieces(packed.crow, packed.row_order)
    lengths = (work["hi"] - work["lo"]).tolist()
    assert not work["split"]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m", [1, 17, 300])
def test_gradients(dtype, m) -> None:
    packed = example(48, 80, (16, 32), 0.4, dtype)
    x = torch.randn(m, 80, generator=generator(5)).to(dtype).requires_grad_()
    packed.val.requires_grad_()
    packed.bias.requires_grad_()
    inputs = (x, packed.val, packed.bias)
    seed = torch.randn(m, 48, generator=generator(6)).to(dtype)
    ours = torch.autograd.grad((masked_linear(x, packed, backend="triton") * seed).sum(), inputs)
    dense = packed.dense().detach().double()
    g, wide = seed.double(), x.detach().double()
    live = pack(g.T @ wide, packed.dense() != 0, block=(16, 32), format="blocks")
    assert close(ours[0], g @ dense, dtype)
    assert close(ours[1], live.val, dtype)
    assert relative_error(ours[2], g.sum(0)) < 4 * BOUNDS[dtype]


def test_gradcheck() -> None:
    packed = example(32, 32, (16, 16), 0.6, torch.float64)
    x = torch.randn(3, 32, generator=generator(5), dtype=torch.float64, requires_grad=True)
    val = packed.val.requires_grad_()

    def product(x, val):
        object.__setattr__(packed, "val", val)
        return masked_linear(x, packed, backend="triton")

    assert torch.autograd.gradcheck(product, (x, val), fast_mode=True)


def test_an_empty_column_has_a_zero_gradient() -> None:
    support = torch.ones(32, 48, dtype=torch.bool)
    support[:, 16:32] = False
    packed = pack(torch.randn(32, 48), support, block=(16, 16), format="blocks")
    x = torch.randn(4, 48, requires_grad=True)
    masked_linear(x, packed, backend="triton").sum().backward()
    assert (x.grad[:, 16:32] == 0).all()
    assert (x.grad[:, :16] != 0).all()


def test_int8_blocks_match_their_dequantised_selves() -> None:
    bound = BOUNDS[torch.float32]
    weight = torch.randn(64, 64, generator=generator(0))
    support = block_support((64, 64), (32, 16), 0.5, 1)
    packed = pack(weight, support, block=(32, 16), format="int8", bias=torch.ones(64))
    for m in (1, 17):
        x = torch.randn(m, 64, generator=generator(m))
        y = masked_linear(x, packed, activation="relu", backend="triton")
        assert relative_error(y, reference(x, packed, "relu")) < bound
