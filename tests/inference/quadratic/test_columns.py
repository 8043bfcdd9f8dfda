"""Cavities of columns against the definition, one column at a time."""

import torch

from probcomp.inference.quadratic import Quadratic, ep_group, ep_shared
from probcomp.inference.quadratic.columns import BLOCK, BLOCK_ABOVE, blocks, cavities
from probcomp.inference.quadratic.group import GroupFactor
from probcomp.inference.quadratic.mixture import Precisions
from probcomp.inference.quadratic.weight_result import WeightState
from probcomp.testing.quadratic import weight_teacher


def test_wide_layers_are_split_and_others_are_not() -> None:
    assert blocks(BLOCK_ABOVE - 1, None) == [slice(0, BLOCK_ABOVE - 1)]
    assert [p.stop - p.start for p in blocks(BLOCK_ABOVE + 10, None)] == [BLOCK, BLOCK, 10]
    assert blocks(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def state_of(quadratic: Quadratic, seed: int = 0) -> WeightState:
    generator = torch.Generator().manual_seed(seed)
    site = 30 + 100 * torch.rand(quadratic.size, generator=generator, dtype=torch.double)
    linear = torch.randn(quadratic.weight.shape, generator=generator, dtype=torch.double)
    return WeightState(site, linear, quadratic.weight, 25.0, 2500.0)


def test_a_cavity_is_the_posterior_without_the_columns_own_site() -> None:
    quadratic = weight_teacher(rows=4, size=6, correlation=1.0).quadratic
    state = state_of(quadratic)
    precisions = Precisions(*torch.tensor([25.0, 2500.0], dtype=torch.double))
    zero = torch.zeros_like(quadratic.weight)
    found = cavities(quadratic, quadratic.linear, state, precisions, zero, blocks(6, None))
    for j in range(6):
        site, linear = state.site.clone(), state.linear.clone()
        site[j], linear[:, j] = 0, 0
        covariance = torch.linalg.inv(quadratic.gram + torch.diag(site))
        mean = (quadratic.linear + linear) @ covariance
        torch.testing.assert_close(found.precision[0, j], 1 / covariance[j, j])
        torch.testing.assert_close(found.linear[:, j], mean[:, j] / covariance[j, j])
    assert bool(found.determined.all())


def test_blocks_see_what_the_others_means_leave() -> None:
    """Around the dense weights each block's linear term is that of its own dense columns."""
    quadratic = weight_teacher(rows=3, size=6, correlation=1.0).quadratic
    state = state_of(quadratic)
    precisions = Precisions(*torch.tensor([25.0, 25.0001], dtype=torch.double))
    zero = torch.zeros_like(quadratic.weight)
    found = cavities(quadratic, quadratic.linear, state, precisions, zero, blocks(6, 3))
    inner = Quadratic(quadratic.weight[:, :3].contiguous(), quadratic.gram[:3, :3], 0.0)
    first = WeightState(state.site[:3], state.linear[:, :3], inner.weight, 25.0, 2500.0)
    alone = cavities(inner, inner.linear, first, precisions, zero[:, :3], blocks(3, None))
    torch.testing.assert_close(found.linear[:, :3], alone.linear)
    torch.testing.assert_close(found.precision[:, :3], alone.precision)


def test_an_input_that_is_always_zero_says_nothing() -> None:
    quadratic = weight_teacher(rows=4, size=6, tokens=200).quadratic
    gram = quadratic.gram.clone()
    gram[2], gram[:, 2] = 0, 0
    dead = Quadratic(quadratic.weight, gram, 0.0)
    result = ep_shared(dead, slab=25.0, spike=2500.0, learn=False)
    assert result.evidence[:, 2].abs().max() < 1e-6
    units = ep_group([GroupFactor(dead, torch.arange(6)[:, None], 25.0)])
    assert abs(float(units.evidence[2])) < 1e-6
    assert bool(torch.isfinite(units.evidence).all())
