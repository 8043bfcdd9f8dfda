"""FLOP formulas: live blocks only, forward and backward, of every operator."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from probcomp.kernels import masked_linear, noisy_linear, pack, reparameterised_linear
from probcomp.kernels.attention import ScoreBlocks, attention_forward
from probcomp.kernels.flops import note_counter
from probcomp.kernels.gated import gated_hidden
from tests.kernels.test_library import blocks


def test_flops_count_live_blocks_only() -> None:
    packed, _ = blocks(torch.float32)
    packed.val.requires_grad_()
    x = torch.randn(6, 56, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        masked_linear(x, packed, backend="gather").sum().backward()
    one = 2 * 6 * packed.val.numel()
    assert counter.get_total_flops() == 3 * one


def test_flops_of_runs_and_groups_are_of_what_is_stored() -> None:
    support = torch.zeros(32, 64, dtype=torch.bool)
    support.view(32, 16, 4)[..., [0, 2]] = True
    x = torch.randn(6, 64)
    for format in ("runs", "nm"):
        packed = pack(torch.randn(32, 64), support, format=format)
        with FlopCounterMode(display=False) as counter:
            masked_linear(x, packed)
        assert counter.get_total_flops() == 2 * 6 * packed.stored


@pytest.mark.parametrize("format", ["runs", "nm"])
def test_a_gradient_by_the_expanded_weight_counts_all_of_it(format: str) -> None:
    support = (torch.arange(64) % 4 < 2).expand(32, 64)
    packed = pack(torch.randn(32, 64), support, format=format)
    x = torch.randn(6, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        masked_linear(x, packed).sum().backward()
    assert counter.get_total_flops() == 2 * 6 * packed.stored + 2 * 6 * 32 * 64


def test_a_sampled_layer_counts_its_mean_and_its_variance() -> None:
    packed, _ = blocks(torch.float32)
    x, mean = torch.randn(6, 56), torch.randn(40, 56)
    with FlopCounterMode(display=False) as counter:
        noisy_linear(x, mean, mean.square(), None, seed=0)
    assert counter.get_total_flops() == 2 * 2 * 6 * 40 * 56
    with FlopCounterMode(display=False) as counter:
        reparameterised_linear(x, packed, packed.val.square(), seed=0)
    assert counter.get_total_flops() == 2 * 2 * 6 * packed.stored


def test_kernels_of_a_gpu_count_what_they_would_do() -> None:
    live = torch.eye(2, dtype=torch.bool)
    shared, own = ScoreBlocks.of(live, (32, 32)), ScoreBlocks.of(live.expand(3, 2, 2), (32, 32))
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        note_counter()
        x, weight, neurons = torch.ones(6, 56), torch.ones(40, 56), torch.ones(7).long()
        seen = []

        def count() -> None:
            seen.append(counter.get_total_flops() - sum(seen))

        gated_hidden(x, weight, weight, None, None, None, "silu"), count()
        gated_hidden(x, weight, weight, None, None, neurons, "silu"), count()
        q, heads = torch.ones(2, 3, 64, 16), torch.zeros(3).long()
        for lists in (None, shared, own):
            off, blk = (None, None) if lists is None else (lists.off, lists.blk)
            attention_forward(q, q, q, heads, off, blk, [32, 32], False, 1.0), count()
    whole = 2 * 2 * 2 * 3 * 64 * 64 * 16
    assert seen == [4 * 6 * 40 * 56, 4 * 6 * 7 * 56, whole, whole // 2, whole // 2]
