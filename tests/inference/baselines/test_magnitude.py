import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference.baselines import magnitude, magnitude_masks


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@given(st.integers(0, 72), st.sampled_from(["global", "uniform"]))
def test_count_is_exact_and_the_largest_stay(nonzeros: int, scope: str) -> None:
    model = network()
    masks = magnitude_masks(model, nonzeros, scope=scope)
    assert sum(int(m.sum()) for m in masks.values()) == nonzeros
    sets = [list(masks)] if scope == "global" else [[name] for name in masks]
    for names in sets:
        values = torch.cat([model.get_parameter(n).abs().flatten() for n in names])
        kept = torch.cat([masks[n].flatten() for n in names])
        if kept.any() and not kept.all():
            assert values[kept].min() >= values[~kept].max()


def test_uniform_keeps_the_same_share_of_each_layer() -> None:
    masks = magnitude_masks(network(), 36, scope="uniform")
    assert [int(m.sum()) for m in masks.values()] == [24, 12]


def test_refit_lowers_the_loss_and_leaves_zeros() -> None:
    model = network()
    before = model[0].weight.clone()
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    batches = Batches((x, x[:, :3]), 20)
    loss = lambda m, b: (m(b[0]) - b[1]).square().mean()  # noqa: E731
    result = magnitude(model, batches, loss=loss, nonzeros=30, epochs=15, learning_rate=1e-2)
    assert torch.equal(model[0].weight, before)
    assert result.refit_history[-1] < 0.8 * result.refit_history[0]
    for name, mask in result.masks.items():
        assert not result.model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nonzeros": 73}, "between 0 and 72"),
        ({"nonzeros": -1}, "between 0 and 72"),
        ({"nonzeros": 5, "names": ["x"]}, "nothing to mask"),
        ({"nonzeros": 5, "scope": "layer"}, "scope must be"),
    ],
)
def test_bad_input_is_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        magnitude_masks(network(), **options)
