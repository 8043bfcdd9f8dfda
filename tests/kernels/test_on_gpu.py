"""Every Triton kernel on a real GPU, against float64 on the CPU.

With ``TRITON_INTERPRET=1`` and ``PROBCOMP_GPU_TESTS=cpu`` the same tests run interpreted, which
checks the tests themselves.
"""

import dataclasses
import os

import pytest
import torch

from probcomp.kernels import (
    chain_messages,
    decode_stats,
    gated_mlp_hidden,
    live_attention,
    masked_linear,
    noisy_linear,
    pack,
    quantise,
    reparameterised_linear,
)
from probcomp.kernels.blocks import BlockWeight, block_index
from probcomp.kernels.nm import pack_nm
from tests.kernels import attention_cases, decode_cases, gated_cases
from tests.kernels.supports import block_support, bursts, generator, relative_error
from tests.kernels.test_contract import Backend
from tests.kernels.test_nm import nm_support
from tests.kernels.test_reparameterised import layer, moments
from tests.kernels.test_statistics import agree

STAND_IN = os.environ.get("PROBCOMP_GPU_TESTS")  # "cpu": interpreted
WHERE = STAND_IN or "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not STAND_IN and not torch.cuda.is_available(), reason="needs a CUDA or ROCm device"
    ),
    # NumPy, under the interpreter, warns where a GPU just computes an infinity.
    *(
        pytest.mark.filterwarnings(f"ignore:{text}:RuntimeWarning")
        for text in ("overflow encountered", "invalid value", "divide by zero")
    ),
]
# Relative to the norm of the result. bfloat16 and float16: a rounding of the output and of the
# inputs; float32 at the precision "highest", so without TF32.
BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
if STAND_IN:
    BOUNDS[torch.bfloat16] = 8e-3  # the interpreter truncates where a GPU rounds
DTYPES = sorted(BOUNDS, key=str)


def moved(packed):
    return packed.to(device=WHERE)


class TestContract(Backend):
    block = (32, 32)
    dtypes = (torch.float32, torch.float16, torch.bfloat16)

    def run(self, x, weight, support, bias):
        packed = pack(weight, support, block=self.block, format="blocks", bias=bias)
        return masked_linear(x.to(WHERE), moved(packed), backend="triton").cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [(16, 16), (32, 64), (64, 32), (128, 64)])
@pytest.mark.parametrize("m", [1, 2, 17, 130])
def test_blocks(dtype, block, m) -> None:
    support = block_support((200, 330), block, 0.4, 0)
    weight, bias = torch.randn(200, 330, generator=generator(1)), torch.randn(200)
    packed = pack(weight, support, block=block, format="blocks", bias=bias).to(dtype=dtype)
    x = torch.randn(m, 330, generator=generator(2)).to(dtype)
    y = masked_linear(x.to(WHERE), moved(packed), activation="gelu", backend="triton")
    inner = x.double() @ packed.dense().double().T + packed.bias.double()
    assert relative_error(y.cpu(), torch.nn.functional.gelu(inner)) < BOUNDS[dtype]


def test_two_launches_have_the_same_bits_and_rows_do_not_depend_on_the_batch() -> None:
    support = block_support((256, 512), (64, 32), 0.3, 0)
    packed = moved(pack(torch.randn(256, 512), support, block=(64, 32), format="blocks"))
    x = torch.randn(300, 512, generator=generator(1)).to(WHERE)
    once = masked_linear(x, packed, backend="triton")
    assert torch.equal(once, masked_linear(x, packed, backend="triton"))
    assert torch.equal(once[100:230], masked_linear(x[100:230], packed, backend="triton"))


@pytest.mark.parametrize("m", [3, 200])
def test_gradients_are_those_of_the_torch_backend(m) -> None:
    support = block_support((96, 160), (32, 32), 0.5, 0)
    weight = torch.randn(96, 160, generator=generator(1))
    packed = pack(weight, support, block=(32, 32), format="blocks", bias=torch.randn(96))
    x = torch.randn(m, 160, generator=generator(2))
    out = torch.randn(m, 96, generator=generator(3))

    def gradients(where: str, backend: str):
        here = packed.to(device=where)
        val, point = here.val.requires_grad_(), x.to(where).requires_grad_()
        y = masked_linear(point, dataclasses.replace(here, val=val), backend=backend)
        return [g.cpu() for g in torch.autograd.grad((y * out.to(where)).sum(), (point, val))]

    for got, want in zip(gradients(WHERE, "triton"), gradients("cpu", "gather")):
        assert relative_error(got, want) < 5e-6


INT8 = {torch.float32: BOUNDS[torch.float32], torch.bfloat16: 1e-2}
"""Against the weights as they were rounded to eight bits, not as they were."""


@pytest.mark.parametrize("dtype", sorted(INT8, key=str))
def test_int8_blocks(dtype) -> None:
    support = block_support((128, 96), (64, 32), 0.5, 0)
    packed = pack(torch.randn(128, 96), support, block=(64, 32), format="blocks").to(dtype=dtype)
    low = quantise(packed)
    x = torch.randn(9, 96, generator=generator(1)).to(dtype)
    y = masked_linear(x.to(WHERE), moved(low), backend="triton").cpu()
    assert relative_error(y, x.double() @ low.dense().double().T) < INT8[dtype]


FLOAT64, TF32 = 1e-12, 2e-3


@pytest.mark.parametrize("m", [1, 33])
def test_float64(m) -> None:
    support = block_support((128, 96), (32, 32), 0.5, 0)
    weight = torch.randn(128, 96, generator=generator(1), dtype=torch.float64)
    packed = pack(weight, support, block=(32, 32), format="blocks")
    x = torch.randn(m, 96, generator=generator(2), dtype=torch.float64)
    y = masked_linear(x.to(WHERE), moved(packed), backend="triton").cpu()
    assert relative_error(y, x @ packed.dense().T) < FLOAT64


@pytest.mark.skipif(bool(STAND_IN), reason="the interpreter multiplies in full precision")
def test_tf32_where_it_is_allowed(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    support = block_support((256, 512), (64, 64), 0.5, 0)
    weight = torch.randn(256, 512, generator=generator(1))
    packed = pack(weight, support, block=(64, 64), format="blocks")
    x = torch.randn(130, 512, generator=generator(2))
    y = masked_linear(x.to(WHERE), moved(packed), backend="triton").cpu()
    assert relative_error(y, x.double() @ packed.dense().double().T) < TF32


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_and_groups(dtype) -> None:
    support = bursts(70, 150, patterns=4)
    packed = pack(torch.randn(70, 150), support, format="runs").to(dtype=dtype)
    x = torch.randn(5, 150, generator=generator(1)).to(dtype)
    y = masked_linear(x.to(WHERE), moved(packed), backend="triton").cpu()
    assert relative_error(y, x.double() @ packed.dense().double().T) < BOUNDS[dtype]
    support = nm_support(70, 2048, 2, 4, seed=2)
    packed = pack_nm(torch.randn(70, 2048), support, None, (2, 4)).to(dtype=dtype)
    x = torch.randn(3, 2048, generator=generator(3)).to(dtype)
    y = masked_linear(x.to(WHERE), moved(packed), backend="triton").cpu()
    assert relative_error(y, x.double() @ packed.dense().double().T) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_mlp(dtype) -> None:
    parts = gated_cases.parts(dtype=dtype)
    there = {name: tensor.to(WHERE) for name, tensor in parts.items()}
    neurons = torch.randperm(90, generator=generator(1))[:37]
    y = gated_mlp_hidden(**there, neurons=neurons.to(WHERE), backend="triton").cpu()
    assert relative_error(y, gated_cases.reference(parts, "silu", neurons)) < 3 * BOUNDS[dtype]


def test_moments_of_the_reparameterised_product() -> None:
    packed, variance = layer(torch.float32)
    here, there = moved(packed), variance.to(WHERE)
    x = torch.randn(1, 48, generator=generator(3))
    draws = 4000 if STAND_IN else 40_000

    def draw(rows):
        return reparameterised_linear(rows.to(WHERE), here, there, seed=1, backend="triton").cpu()

    moments(draw, packed, variance, x, draws)


def test_whole_matrices_draw_with_the_moments_of_the_closed_form() -> None:
    every = torch.ones(40, 48, dtype=torch.bool)
    mean, spread = torch.randn(2, 40, 48, generator=generator(0))
    variance, bias = spread.square(), torch.randn(40, generator=generator(1))
    packed = pack(mean, every, block=(8, 16), format="blocks", bias=bias)
    blocks = pack(variance, every, block=(8, 16), format="blocks").val
    x = torch.randn(1, 48, generator=generator(3))
    weights = [t.to(WHERE) for t in (mean, variance, bias)]

    def draw(rows):
        return noisy_linear(rows.to(WHERE), *weights, seed=1, backend="triton").cpu()

    moments(draw, packed, blocks, x, 4000 if STAND_IN else 40_000)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(600, 1), (70, 33), (2048, 5)])
def test_chain_messages(shape, reverse) -> None:
    base = 8 * torch.randn(shape, generator=generator(0))
    base[0], base[-1] = 60.0, -60.0
    coupling = torch.randn(shape[1], generator=generator(1))
    got = chain_messages(base.to(WHERE), coupling.to(WHERE), reverse=reverse, backend="triton")
    want = chain_messages(base.double(), coupling.double(), reverse=reverse)
    assert (got.cpu() - want).abs().max() < 1e-5  # nats, for log-odds of up to 60


@pytest.mark.parametrize("vocabulary", [3000, 50_001])
def test_decode_statistics(vocabulary) -> None:
    x = decode_cases.rows_of_logits(vocabulary)[[0, 1, 2, 3, 4, 6, 7, 8]]
    got = decode_stats(x.to(WHERE), eos_ids=[2, 5, 700], temperature=0.7, backend="triton")
    got = type(got)(*(column.cpu() for column in got))
    agree(got, decode_cases.naive(x, [2, 5, 700], 0.7), 1e-4, far=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [None, 0.5])
def test_attention(dtype, causal, share) -> None:
    case = attention_cases.inputs(3, 2, (37, 53), share, 0, dtype, width=32)
    want = attention_cases.naive(**case, causal=causal)
    blocks = case["blocks"]
    if blocks is not None:
        places = {name: getattr(blocks, name).to(WHERE) for name in ("off", "blk", "live")}
        case["blocks"] = dataclasses.replace(blocks, **places)
    there = {k: v.to(WHERE) if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    got = live_attention(**there, causal=causal, backend="triton").cpu()
    assert relative_error(got, want) < 2 * BOUNDS[dtype]


@pytest.mark.skipif(bool(STAND_IN), reason="needs the memory and the speed of a GPU")
@pytest.mark.parametrize("rows", [1, 20])
def test_more_stored_values_than_two_to_the_31(rows) -> None:
    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    side, height, width = 64, 1024, 513  # 2^31 + 2^22 values
    index = block_index(torch.ones(height, width, dtype=torch.bool, device=WHERE))
    val = torch.zeros(height * width, side, side, dtype=torch.float16, device=WHERE)
    val[-1].copy_(torch.randn(side, side, generator=generator(0)))
    shape = (height * side, width * side)
    packed = BlockWeight(shape=shape, bias=None, live=val.numel(), val=val, **index._asdict())
    x = torch.randn(rows, shape[1], generator=generator(1)).half().to(WHERE)
    y = masked_linear(x, packed, backend="triton")
    assert not y[:, :-side].any()
    want = x[:, -side:].double() @ val[-1].double().T
    assert relative_error(y[:, -side:], want) < BOUNDS[torch.float16]


@pytest.mark.skipif(bool(STAND_IN), reason="needs the memory and the speed of a GPU")
def test_offsets_beyond_two_to_the_31() -> None:
    """A view whose rows are so far apart that 32-bit offsets would wrap."""
    if torch.cuda.get_device_properties(0).total_memory < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    far = torch.empty(3 * 2**30, dtype=torch.float16, device=WHERE)  # 6 GiB
    x = far.as_strided((2, 64), (2**31 + 2**20, 1))
    x.copy_(torch.randn(2, 64))
    support = torch.ones(64, 64, dtype=torch.bool)
    packed = moved(pack(torch.randn(64, 64).half(), support, block=(32, 32), format="blocks"))
    y = masked_linear(x, packed, backend="triton")
    assert relative_error(y, x.double() @ packed.dense().double().T) < BOUNDS[torch.float16]
