"""Attention over live heads and blocks: against a naive loop, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.kernels import ScoreBlocks, live_attention
from tests.kernels.attention_cases import inputs, naive
from tests.kernels.supports import generator

ROUNDING = 1e-12  # float64: sums of at most 80 terms in another order


@settings(max_examples=25)
@given(
    heads=st.integers(1, 5),
    groups=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 50)),
    causal=st.booleans(),
    share=st.sampled_from([None, 0.0, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_it_is_the_naive_loop(heads, groups, lengths, causal, share, seed) -> None:
    case = inputs(heads, groups, lengths, share, seed)
    got = live_attention(**case, causal=causal)
    assert torch.allclose(got, naive(**case, causal=causal), atol=ROUNDING, rtol=ROUNDING)


def test_neighbours_share_a_key_value_head_by_default() -> None:
    case = inputs(4, 2, (6, 6), None, 0)
    case["kv_head"] = None
    listed = {**case, "kv_head": torch.tensor([0, 0, 1, 1])}
    assert torch.equal(live_attention(**case), live_attention(**listed))


def test_removed_heads_are_the_rest_of_the_dense_output() -> None:
    case = inputs(6, 2, (9, 9), None, 1)
    case["kv_head"] = torch.tensor([0, 0, 0, 1, 1, 1])
    whole = live_attention(**case)
    kept = torch.tensor([0, 3, 4, 5])  # one query head is left in the first group, three beside it
    ragged = {**case, "query": case["query"][:, kept], "kv_head": case["kv_head"][kept]}
    assert torch.allclose(live_attention(**ragged), whole[:, kept], atol=ROUNDING)


def test_a_query_that_may_read_nothing_gives_zero_and_no_nan() -> None:
    case = inputs(1, 1, (32, 32), None, 2)
    live = torch.tensor([[True, False], [False, False]])
    case["blocks"] = ScoreBlocks.of(live, (16, 16))
    out = live_attention(**case)
    assert torch.isfinite(out).all()
    assert (out[:, :, 16:] == 0).all()
    assert (out[:, :, :16] != 0).any()


def test_the_lists_hold_each_live_block_once() -> None:
    live = torch.rand(3, 4, 5, generator=generator(3)) < 0.5
    blocks = ScoreBlocks.of(live, (16, 32))
    for h in range(3):
        for r in range(4):
            listed = blocks.blk[blocks.off[h, r] : blocks.off[h, r + 1]]
            assert torch.equal(listed.long(), live[h, r].nonzero().squeeze(1))
    assert math.isclose(blocks.density, live.float().mean())


def test_gradients_flow_through_the_torch_backend() -> None:
    case = inputs(2, 1, (5, 7), None, 4)
    query = case.pop("query").requires_grad_()
    assert torch.autograd.gradcheck(lambda q: live_attention(q, **case), (query,))


def test_bad_input_is_refused() -> None:
    case = inputs(3, 2, (6, 6), None, 5)
    with pytest.raises(InputError, match="do not divide"):
        live_attention(**{**case, "kv_head": None})
    with pytest.raises(InputError, match="must lie in"):
        live_attention(**{**case, "kv_head": torch.tensor([0, 1, 2])})
    with pytest.raises(InputError, match=r"expected \[B, H, LQ, D\]"):
        live_attention(**{**case, "key": case["key"][..., :2]})
    blocks = ScoreBlocks.of(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="need a mask"):
        live_attention(**{**case, "blocks": blocks})
    with pytest.raises(InputError, match="powers of two"):
        ScoreBlocks.of(torch.ones(1, 1, dtype=torch.bool), (48, 64))
    with pytest.raises(InputError, match="must be bool"):
        ScoreBlocks.of(torch.ones(1, 1))
    with pytest.raises(InputError, match="attention backend"):
        live_attention(**case, backend="flash")
    case["query"].requires_grad_()
    with pytest.raises(InputError, match="no gradient"):
        live_attention(**case, backend="triton")
