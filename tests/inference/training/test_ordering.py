import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.inference.training import ordering
from probcomp.inference.training.ordering import position_order, spectral_order, unit_features
from probcomp.inference.training.units import Slot


@given(st.integers(0, 1000))
def test_a_shuffled_band_is_put_back_in_order(seed: int) -> None:
    """Units whose supports overlap along a line come out in line, in one direction or the other."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(12)
    features = ((line[:, None] - torch.arange(14)[None, :] + 1).abs() <= 2).float()
    shuffle = torch.randperm(12, generator=generator)
    order = shuffle[spectral_order(features[shuffle], torch.ones(12, dtype=torch.bool))]
    assert order.tolist() in (line.tolist(), line.flip(0).tolist())


@given(st.integers(0, 1000), st.integers(1, 9))
def test_always_a_permutation_with_the_dead_last(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(size, 5, generator=generator)
    alive = torch.rand(size, generator=generator) < 0.6
    order = spectral_order(features, alive)
    assert sorted(order.tolist()) == list(range(size))
    assert alive[order[: int(alive.sum())]].all()


def test_large_groups_go_by_their_mean_support(monkeypatch) -> None:
    monkeypatch.setattr(ordering, "MOST_UNITS", 3)
    features = torch.tensor([[1.0], [4.0], [2.0], [3.0]])
    order = spectral_order(features, torch.ones(4, dtype=torch.bool))
    assert order.tolist() == [1, 3, 2, 0]


def test_features_join_all_slices_of_a_unit() -> None:
    supports = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(8.0).view(2, 4)}
    gates = {
        "a": [Slot("g", 0, torch.arange(2))],
        "b": [Slot("g", 1, torch.tensor([0, 0, 1, 1]))],
    }
    table = unit_features({"g": 2}, supports, gates)["g"]
    assert table.tolist() == [[0, 1, 2, 0 + 1, 4 + 5], [3, 4, 5, 2 + 3, 6 + 7]]


def test_positions_follow_their_units() -> None:
    rank = torch.tensor([1, 0])
    assert position_order(Slot("g", 0, torch.tensor([0, 0, 1, 1])), rank).tolist() == [2, 3, 0, 1]
    assert position_order(Slot("g", 0, torch.tensor([0, -1, 1])), rank) is None
