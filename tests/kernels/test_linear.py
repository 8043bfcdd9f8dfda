"""`masked_linear` on every CPU backend against the float64 masked product."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import MaskedLinear, cpp, linear, masked_linear, pack
from probcomp.kernels.activations import ACTIVATIONS
from tests.kernels.supports import block_support, folded, generator, relative_error
from tests.kernels.test_nm import nm_support

FLOAT32 = 2e-6  # sums of a few hundred terms in another order
FLOAT64 = 1e-13
BFLOAT16 = 8e-3  # one rounding of the result and of each product's inputs

CASES = [
    ("dense", "dense"), ("compact", "dense"), ("blocks", "dense"), ("blocks", "gather"),
    ("blocks", "panels"), ("runs", "gather"), ("runs", "dense"), ("int8", "gather"),
    ("int8", "dense"),
]  # fmt: skip


def reference(x, packed, activation="none"):
    y = x.double() @ packed.dense().double().T
    if packed.bias is not None:
        y = y + packed.bias.double()
    return ACTIVATIONS[activation](y)


@settings(max_examples=60)
@given(
    case=st.sampled_from(CASES),
    n=st.integers(1, 70),
    k=st.integers(1, 70),
    m=st.sampled_from([0, 1, 2, 15, 16, 17, 31, 33]),
    block=st.sampled_from([(16, 16), (8, 32), (32, 16), (64, 5)]),
    density=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    biased=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_format_and_backend_is_the_masked_product(
    case, n, k, m, block, density, activation, biased, seed
) -> None:
    rng = generator(seed)
    weight = torch.randn(n, k, generator=rng)
    bias = torch.randn(n, generator=rng) if biased else None
    support = block_support((n, k), block, density, seed + 1)
    packed = pack(weight, support, block=block, format=case[0], bias=bias)
    x = torch.randn(m, k, generator=rng)
    y = masked_linear(x, packed, activation=activation, backend=case[1])
    expected = reference(x, packed, activation)
    assert y.shape == (m, n)
    assert y.dtype == torch.float32
    assert (y.double() - expected).norm() <= FLOAT32 * (1 + expected.norm()) * 4


LAYOUTS = {
    "plain": lambda x: x.contiguous(),
    "slice": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "stride": lambda x: torch.stack([x, -x], -1).flatten(-2)[..., ::2],
    "transposed": lambda x: x.t().contiguous().t(),
    "one row": lambda x: x[:1].expand(x.shape),
    "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "batched": lambda x: x[:, None],
}


@settings(max_examples=120)
@given(
    format=st.sampled_from(["auto", "dense", "compact", "blocks", "int8", "runs"]),
    n=st.sampled_from([1, 3, 17, 64, 131, 320]), k=st.sampled_from([1, 5, 33, 64, 127, 512]),
    m=st.sampled_from([0, 1, 2, 3, 9, 17, 65, 129]),
    block=st.sampled_from([(16, 16), (8, 32), (64, 64), (24, 40), (512, 512)]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), compiled=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_whatever_is_chosen_is_the_masked_product(
    format, n, k, m, block, density, layout, dtype, compiled, activation, seed
) -> None:
    """The dispatcher's own choice, first and again, beside shapes and layouts no table has."""
    rng = generator(seed)
    weight, bias = torch.randn(n, k, generator=rng), torch.randn(n, generator=rng)
    support = block_support((n, k), block, density, seed + 1)
    packed = pack(weight, support, block=block, format=format, bias=bias, dtype=dtype)
    x = torch.randn(m, k, generator=rng).to(dtype)
    x = LAYOUTS[layout](x) if m else x
    want = reference(x, packed, activation)
    bound = 4 * (FLOAT32 if dtype == torch.float32 else BFLOAT16) * (1 + want.norm())
    with nullcontext() if compiled else cpp.hidden():
        first, again = (masked_linear(x, packed, activation=activation) for _ in range(2))
    assert first.shape == want.shape
    assert first.dtype == dtype
    assert (first.double() - want).norm() <= bound
    assert torch.equal(first, again)


@pytest.mark.parametrize("case", CASES)
def test_float64_and_bfloat16(case) -> None:
    weight = torch.randn(48, 64, generator=generator(0))
    support = block_support((48, 64), (16, 16), 0.5, 1)
    x = torch.randn(9, 64, generator=generator(2))
    for dtype, bound in ((torch.float64, FLOAT64), (torch.bfloat16, BFLOAT16)):
        packed = pack(weight, support, block=(16, 16), format=case[0]).to(dtype=dtype)
        y = masked_linear(x.to(dtype), packed, backend=case[1])
        assert y.dtype == dtype
        assert relative_error(y, reference(x.to(dtype), packed)) < bound


def test_leading_dimensions_and_awkward_strides() -> None:
    weight = torch.randn(32, 48, generator=generator(0))
    packed = pack(
        weight, block_support((32, 48), (16, 16), 0.5, 1), block=(16, 16), format="blocks"
    )
    wide = torch.randn(3, 5, 96, generator=generator(2))
    for x in (wide[..., :48], wide[..., ::2], wide[:1, :1, :48].expand(3, 5, 48)):
        y = masked_linear(x, packed, backend="gather")
        assert y.shape == (3, 5, 32)
        assert relative_error(y, reference(x, packed)) < FLOAT32
    assert masked_linear(wide[0, 0, :48], packed).shape == (32,)


def test_what_no_live_block_reads_does_not_reach_the_output() -> None:
    support = torch.zeros(32, 32, dtype=torch.bool)
    support[:, :16] = True
    weight = torch.randn(32, 32, generator=generator(0))
    packed = pack(weight, support, block=(16, 16), format="blocks")
    x = torch.randn(4, 32, generator=generator(1))
    clean = masked_linear(x, packed, backend="gather")
    poisoned = x.clone()
    poisoned[:, 20] = float("nan")
    poisoned[:, 21] = float("inf")
    for backend in ("gather", "panels"):
        assert torch.equal(
            masked_linear(poisoned, packed, backend=backend).isfinite(), clean > -1e9
        )
    assert masked_linear(poisoned, packed, backend="dense").isnan().all()


def test_an_infinity_in_a_live_column_poisons_its_own_row_only() -> None:
    weight = torch.randn(32, 32, generator=generator(0))
    packed = pack(weight, torch.ones(32, 32, dtype=torch.bool), block=(16, 16), format="blocks")
    x = torch.randn(4, 32, generator=generator(1))
    x[2, 3] = float("inf")
    finite = masked_linear(x, packed, backend="gather").isfinite().all(1)
    assert finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize("backend", ["dense", "gather", "panels"])
def test_an_empty_block_row_outputs_act_of_the_bias(backend: str) -> None:
    support = torch.ones(48, 32, dtype=torch.bool)
    support[16:32] = False
    bias = torch.randn(48, generator=generator(0))
    weight = torch.randn(48, 32, generator=generator(1))
    packed = pack(weight, support, block=(16, 16), format="blocks", bias=bias)
    y = masked_linear(torch.randn(5, 32), packed, activation="relu", backend=backend)
    assert torch.equal(y[:, 16:32], torch.relu(bias[16:32]).expand(5, 16))


def test_compact_dead_rows_output_their_bias() -> None:
    support = torch.ones(8, 6, dtype=torch.bool)
    support[3] = False
    packed = pack(torch.randn(8, 6), support, bias=torch.arange(8.0))
    y = masked_linear(torch.randn(5, 6), packed, activation="gelu")
    assert torch.allclose(y[:, 3], ACTIVATIONS["gelu"](torch.tensor(3.0)))


def test_a_permutation_of_the_stored_blocks_changes_nothing() -> None:
    weight = torch.randn(64, 64, generator=generator(0))
    support = block_support((64, 64), (16, 16), 0.5, 1)
    order = torch.randperm(64, generator=generator(2)).view(4, 16).sort(1).values.flatten()
    x = torch.randn(7, 64, generator=generator(3))
    base = masked_linear(
        x, pack(weight, support, block=(16, 16), format="blocks"), backend="gather"
    )
    moved = pack(weight[:, order], support[:, order], block=(16, 16), format="blocks")
    again = masked_linear(x[:, order], moved, backend="gather")
    assert relative_error(again, base) < FLOAT32


@pytest.mark.parametrize("backend", ["gather", "panels"])
def test_linearity_and_repeatability(backend: str) -> None:
    weight = torch.randn(64, 64, generator=generator(0), dtype=torch.float64)
    packed = pack(
        weight, block_support((64, 64), (16, 16), 0.4, 1), block=(16, 16), format="blocks"
    )
    a, b = torch.randn(2, 6, 64, generator=generator(2), dtype=torch.float64)
    together = masked_linear(2 * a - 3 * b, packed, backend=backend)
    apart = 2 * masked_linear(a, packed, backend=backend) - 3 * masked_linear(
        b, packed, backend=backend
    )
    assert relative_error(together, apart) < FLOAT64
    assert torch.equal(together, masked_linear(2 * a - 3 * b, packed, backend=backend))


def test_nm_weights_multiply() -> None:
    support = torch.zeros(32, 64, dtype=torch.bool)
    support.view(32, 16, 4)[..., [0, 2]] = True
    weight = torch.randn(32, 64, generator=generator(0))
    packed = pack(weight, support, format="nm", bias=torch.ones(32))
    x = torch.randn(5, 64, generator=generator(1))
    expected = x.double() @ folded(weight, support).T + 1.0
    assert relative_error(masked_linear(x, packed), expected) < FLOAT32


FORMATS = ["dense", "compact", "blocks", "int8", "runs", "nm"]


def of_format(format, dtype=torch.float32):
    support = block_support((48, 64), (16, 16), 0.5, 1)
    support[5, ::3] = False  # dead entries inside live blocks
    if format == "nm":
        support = nm_support(48, 64, 2, 4, seed=1)
    weight, bias = torch.randn(48, 64, generator=generator(0)), torch.randn(48)
    return pack(weight, support, block=(16, 16), format=format, bias=bias, dtype=dtype)


@pytest.mark.parametrize("format", FORMATS)
def test_transforms_and_forward_mode_see_the_product(format: str) -> None:
    """An operator without a rule for them would give zero tangents, or none."""
    packed = of_format(format, torch.float64)
    dense, bias = packed.dense(), packed.bias
    x, t = torch.randn(2, 5, 64, generator=generator(2), dtype=torch.float64)

    def ours(x):
        return masked_linear(x, packed, activation="gelu")

    def theirs(x):
        return ACTIVATIONS["gelu"](x @ dense.T + bias)

    pairs = list(zip(torch.func.jvp(ours, (x,), (t,)), torch.func.jvp(theirs, (x,), (t,))))
    pairs.append((torch.func.vmap(ours)(x), theirs(x)))
    pairs += [
        tuple(run(lambda x, f=f: f(x).square().sum())(x[:1]) for f in (ours, theirs))
        for run in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian)
    ]
    with torch.autograd.forward_ad.dual_level():
        y = masked_linear(torch.autograd.forward_ad.make_dual(x, t), packed)
        pairs.append((torch.autograd.forward_ad.unpack_dual(y).tangent, t @ dense.T))
    for got, want in pairs:
        assert relative_error(got, want) < FLOAT64


def test_gradients_of_single_samples() -> None:
    layer = MaskedLinear(of_format("blocks", torch.float64))
    x = torch.randn(4, 64, generator=generator(2), dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, row in enumerate(x):
        want = torch.autograd.grad(layer(row).square().sum(), list(parameters.values()))
        for name, gradient in zip(parameters, want):
            assert relative_error(found[name][i], gradient) < FLOAT64


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_autocast_runs_in_its_own_dtype_and_casts_a_frozen_weight_once(
    format, low, monkeypatch
) -> None:
    packed = of_format(format)
    x = torch.randn(5, 64, generator=generator(2))
    cast, real = [], linear._lower
    monkeypatch.setattr(linear, "_lower", lambda t, dtype: cast.append(t) or real(t, dtype))

    def run():
        with torch.autocast("cpu", low):
            return masked_linear(x, packed)

    first = run()
    with torch.autocast("cpu", low):
        want = torch.nn.functional.linear(x, packed.dense(), packed.bias)
    assert first.dtype == want.dtype == low
    assert relative_error(first, want) < BFLOAT16
    assert len(cast) == 2  # the values and the bias
    assert torch.equal(run(), first)
    with torch.inference_mode():
        assert torch.equal(run(), first)
    assert len(cast) == 2
    with torch.no_grad():
        (packed.scale if format == "int8" else getattr(packed, packed.value_name)).mul_(2)
    assert relative_error(run() - packed.bias, 2 * (first - packed.bias)) < 3 * BFLOAT16
    assert len(cast) == 3


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3, 31), {}, r"expected \[..., 32\]"),
        (torch.zeros(3, 32, dtype=torch.float64), {}, "convert one, or use autocast"),
        (torch.zeros(3, 32), {"backend": "cuda"}, "unknown kernel backend"),
        (torch.zeros(3, 32), {"backend": "triton"}, "cannot run blocks weights"),
        (torch.zeros(3, 32), {"activation": "swish"}, "unknown activation"),
    ],
)
def test_bad_input_is_refused(x, options, message) -> None:
    packed = pack(
        torch.ones(16, 32), torch.ones(16, 32, dtype=torch.bool), block=(16, 16), format="blocks"
    )
    with pytest.raises(InputError, match=message):
        masked_linear(x, packed, **options)


def test_what_is_no_packed_weight_is_refused() -> None:
    packed = of_format("blocks")
    for x, weight in ((torch.ones(2, 64), MaskedLinear(packed)), ([[1.0] * 64], packed)):
        with pytest.raises(InputError, match="takes a tensor and a packed weight"):
            masked_linear(x, weight)


def test_cpp_is_refused_for_what_it_cannot_run() -> None:
    packed = pack(
        torch.ones(16, 32), torch.ones(16, 32, dtype=torch.bool), block=(8, 16), format="blocks"
    )
    assert not cpp.usable((8, 16), torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match="cannot run"):
        masked_linear(torch.zeros(2, 32), packed, backend="cpp")
