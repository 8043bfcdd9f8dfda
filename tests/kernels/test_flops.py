"""FLOP formulas: live blocks only, forward and backward, of every operator."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from probcomp.kernels import masked_linear, pack
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
