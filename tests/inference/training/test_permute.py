import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.inference.training.build import tensor_shapes
from probcomp.inference.training.permute import permute_model, permuted
from probcomp.inference.training.units import Slice, Slot, Units, slots

SAME = 1e-12  # float64 sums in another order


@given(st.integers(0, 1000))
def test_channels_move_with_their_norm_and_their_flattened_readers(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    model(torch.randn(9, 2, 4, 4, dtype=torch.double))  # running statistics that differ
    model.eval()
    one = torch.arange(5)[:, None]
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    members = [Slice(n, 0, one) for n in names]
    members.append(Slice("4.weight", 1, torch.arange(20).view(5, 4)))
    gates = slots([Units("c", 5, tuple(members))], tensor_shapes(model))
    x = torch.randn(4, 2, 4, 4, dtype=torch.double)
    before, first = model(x), model[0].weight.clone()
    order = torch.randperm(5)
    permute_model(model, gates, {"c": order})
    assert torch.equal(model[0].weight, first[order])
    assert torch.allclose(model(x), before, rtol=SAME, atol=SAME)


def test_interleaved_positions_keep_their_place_within_the_unit() -> None:
    slot = Slot("g", 0, torch.tensor([0, 1, 0, 1, -1]))
    values = torch.tensor([10.0, 20.0, 11.0, 21.0, 5.0])
    assert permuted(values, [slot], {"g": torch.tensor([1, 0])}).tolist() == [20, 10, 21, 11, 5]
    assert permuted(values, [slot], {}).tolist() == values.tolist()
