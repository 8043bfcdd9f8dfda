import pytest
import torch

from probcomp.inference.training.sites import Sites
from probcomp.inference.training.units import Slot


@pytest.mark.parametrize("kernels", ["shared", "separate"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (3, 4, 2, 5)])
def test_collect_and_expand(shape, kernels) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sites = Sites(shape, kernels if len(shape) > 2 else "shared")
    collected = sites.collect(values)
    assert collected.shape == sites.shape
    assert sites.expand(collected).shape == shape
    if sites.rank == 2 and len(shape) > 2:
        assert torch.allclose(collected, values.sum(tuple(range(2, len(shape)))))
    else:
        assert torch.equal(sites.expand(collected), values)
        assert float(collected[..., 1, 2].sum()) == pytest.approx(float(values[1, 2].sum()))


def test_gates_move_to_the_last_two_dimensions() -> None:
    slot = Slot("g", 1, torch.arange(4))
    assert Sites((3, 4, 2, 2), "separate").slots((slot,))[0].dim == 3
    assert Sites((3, 4, 2, 2), "shared").slots((slot,))[0].dim == 1


def test_order_of_the_prior_is_undone() -> None:
    sites = Sites((3, 4), rows=torch.tensor([2, 0, 1]), columns=torch.tensor([3, 1, 0, 2]))
    values = torch.arange(12.0).view(3, 4)
    seen = sites.to_lattice(values)
    assert seen[0].tolist() == [11, 9, 8, 10]
    assert torch.equal(sites.from_lattice(seen), values)
