"""The attention and N:M kernels, interpreted."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import ScoreBlocks, live_attention, masked_linear, pack
from probcomp.kernels.attention import attention_forward
from probcomp.kernels.library_packed import group_linear
from probcomp.kernels.nm import pack_nm
from tests.kernels.attention_cases import inputs, naive
from tests.kernels.supports import generator, relative_error
from tests.kernels.test_nm import nm_support

BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [None, 0.5])
def test_attention_is_the_naive_loop(dtype, causal, share) -> None:
    case = inputs(3, 2, (37, 53), share, 0, dtype, width=16)
    got = live_attention(**case, causal=causal, backend="triton")
    assert got.dtype == dtype
    assert relative_error(got, naive(**case, causal=causal)) < BOUNDS[dtype]


@pytest.mark.parametrize("lengths", [(1, 1), (1, 70), (16, 16), (70, 1), (65, 64)])
@pytest.mark.parametrize("width", [5, 24])
def test_attention_of_odd_shapes(lengths, width) -> None:
    case = inputs(2, 1, lengths, None, 1, torch.float32, width=width)
    for causal in (False, True):
        got = live_attention(**case, causal=causal, backend="triton")
        assert relative_error(got, naive(**case, causal=causal)) < BOUNDS[torch.float32]


def test_a_query_that_may_read_nothing_gives_zero() -> None:
    case = inputs(2, 1, (40, 64), 0.0, 2, torch.float32, width=16)
    assert (live_attention(**case, backend="triton") == 0).all()
    case["blocks"] = ScoreBlocks.of(
        torch.tensor([[False, True], [True, False], [False, False]]), (16, 32)
    )
    got = live_attention(**case, backend="triton")  # one mask for all heads
    assert torch.allclose(got, live_attention(**case, backend="torch"), atol=1e-6)
    assert (got[:, :, 32:] == 0).all()


def test_blocks_that_nobody_reads_may_hold_anything() -> None:
    case = inputs(1, 1, (16, 64), None, 3, torch.float32, width=16)
    case["blocks"] = ScoreBlocks.of(torch.tensor([[True, False]]), (16, 32))
    clean = live_attention(**case, backend="triton")
    case["key"][:, :, 32:] = float("nan")
    assert torch.equal(live_attention(**case, backend="triton"), clean)


def test_opcheck_of_attention() -> None:
    case = inputs(2, 2, (20, 33), 0.5, 4, torch.float32, width=16)
    blocks = case.pop("blocks")
    args = (*case.values(), blocks.off, blocks.blk, [16, 32], True, 0.25)
    torch.library.opcheck(attention_forward, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("dtype", sorted(BOUNDS, key=str))
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8), (3, 5), (8, 16)])
@pytest.mark.parametrize("m", [1, 3])
def test_groups(dtype, pattern, m) -> None:
    support = nm_support(37, 45 * pattern[1], *pattern, seed=1)
    weight, bias = torch.randn(support.shape, generator=generator(2)), torch.randn(37)
    packed = pack_nm(weight, support, bias, pattern).to(dtype=dtype)
    x = torch.randn(m, support.shape[1], generator=generator(3)).to(dtype)
    y = masked_linear(x, packed, activation="relu", backend="triton")
    assert y.dtype == dtype
    want = torch.relu(x.double() @ packed.dense().double().T + packed.bias.double())
    assert relative_error(y, want) < BOUNDS[dtype]


def test_groups_of_a_slice_of_a_wide_input() -> None:
    support = nm_support(8, 64, 2, 4, seed=4)
    packed = pack(torch.randn(8, 64, generator=generator(5)), support, format="nm")
    wide = torch.randn(2, 200, generator=generator(6))
    got = masked_linear(wide[:, 7:71], packed, backend="triton")
    assert relative_error(got, wide[:, 7:71].double() @ packed.dense().double().T) < 2e-6
    every_other = wide[:, ::2][:, :64]
    got = masked_linear(every_other, packed, backend="triton")
    assert relative_error(got, every_other.double() @ packed.dense().double().T) < 2e-6


def test_an_input_that_no_weight_reads_stays_out() -> None:
    support = torch.zeros(4, 8, dtype=torch.bool)
    support[:, ::4] = True  # the first of each four
    packed = pack(torch.randn(4, 8), support, format="nm")
    x = torch.randn(1, 8)
    x[0, 3] = float("nan")
    assert torch.isfinite(masked_linear(x, packed, backend="triton")).all()


def test_opcheck_of_groups() -> None:
    packed = pack(torch.randn(8, 16), nm_support(8, 16, 2, 4, seed=8), format="nm")
    args = (torch.randn(2, 16), packed.val, packed.code, None, 2, 4, "none", "triton")
    torch.library.opcheck(group_linear, args, test_utils=("test_schema", "test_faketensor"))


def test_gradients_are_refused() -> None:
    case = inputs(1, 1, (4, 4), None, 5, torch.float32)
    case["query"].requires_grad_()
    with pytest.raises(InputError, match="no gradient"):
        live_attention(**case, backend="triton")
