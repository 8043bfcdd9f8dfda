"""`pack`: the choice of a format, and its bad inputs."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import BlockWeight, CompactWeight, GroupWeight, Int8Weight, RunWeight, pack
from probcomp.kernels.packing import best_block
from tests.kernels.supports import block_support, folded, generator

WEIGHT = torch.randn(256, 256, generator=generator(0))


def test_dead_neurons_are_compacted_not_made_blocks() -> None:
    support = torch.rand(256, 1, generator=generator(1)).expand(256, 256) < 0.4
    packed = pack(WEIGHT, support)
    assert isinstance(packed, CompactWeight)
    assert packed.fill == 1.0


def test_scattered_blocks_become_blocks_of_their_shape() -> None:
    packed = pack(WEIGHT, block_support((256, 256), (64, 32), 0.2, seed=2))
    assert isinstance(packed, BlockWeight)
    assert packed.block == (64, 32)
    assert packed.fill == 1.0


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_scattered_entries_stay_dense(density: float) -> None:
    support = torch.rand(256, 256, generator=generator(3)) < density
    packed = pack(WEIGHT, support)
    assert isinstance(packed, CompactWeight)
    assert packed.in_index is None
    assert packed.out_index is None
    assert torch.equal(packed.dense().double(), folded(WEIGHT, support))


def test_a_tall_block_is_preferred_at_equal_storage() -> None:
    support = block_support((256, 256), (128, 32), 0.3, seed=4)
    assert best_block(support)[0] == (128, 32)


def test_a_grid_of_blocks_is_accepted_with_its_block_shape() -> None:
    grid = torch.rand(4, 8, generator=generator(5)) < 0.5
    packed = pack(WEIGHT[:250, :250], grid, block=(64, 32), format="blocks")
    whole = grid.repeat_interleave(64, 0).repeat_interleave(32, 1)[:250, :250]
    assert torch.equal(packed.dense().double(), folded(WEIGHT[:250, :250], whole))


def test_each_format_can_be_asked_for() -> None:
    support = torch.zeros(256, 256, dtype=torch.bool)
    support[:, ::4] = True
    kinds = {"runs": RunWeight, "nm": GroupWeight, "int8": Int8Weight, "blocks": BlockWeight}
    for name, kind in kinds.items():
        assert type(pack(WEIGHT, support, format=name)) is kind


def test_dtype_converts_weight_and_bias() -> None:
    packed = pack(WEIGHT, WEIGHT > 0, bias=torch.zeros(256), dtype=torch.bfloat16)
    assert packed.weight_dtype == torch.bfloat16
    assert packed.bias is not None
    assert packed.bias.dtype == torch.bfloat16


def test_packing_does_not_keep_the_graph() -> None:
    weight = WEIGHT.clone().requires_grad_()
    packed = pack(weight, WEIGHT > 0, format="blocks", block=(32, 32))
    assert isinstance(packed, BlockWeight)
    assert not packed.val.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support": WEIGHT}, "threshold probabilities"),
        ({"support": torch.ones(3, 3, dtype=torch.bool)}, r"expected \[256, 256\]"),
        ({"block": (0, 4)}, "two positive sizes"),
        ({"block": "tall"}, "two positive sizes"),
        ({"block": 64}, "two positive sizes"),
        ({"block": (16.5, 4)}, "two positive sizes"),
        ({"weight": WEIGHT.numpy()}, "weight must be a tensor, got ndarray"),
        ({"support": (WEIGHT > 0).numpy()}, "support must be a tensor, got ndarray"),
        ({"format": "csr"}, "unknown packed format"),
        ({"weight": WEIGHT[0]}, "non-empty matrix"),
        ({"weight": WEIGHT.long()}, "floating point"),
        ({"format": "nm"}, "obeys none of"),
    ],
)
def test_bad_input_is_refused(change, message) -> None:
    arguments = {"weight": WEIGHT, "support": torch.ones(256, 256, dtype=torch.bool), **change}
    with pytest.raises(InputError, match=message):
        pack(**arguments)
