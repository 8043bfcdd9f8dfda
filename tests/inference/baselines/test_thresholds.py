import pytest
import torch
from torch import nn

from probcomp.data import Batches
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.places import find_places
from probcomp.inference.baselines.thresholds import by_loss
from probcomp.inference.training.units import Slice, Units

HIDDEN = 6


def loss(model: nn.Module, batch) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def network():
    """Of four inputs two matter; of six hidden units two do, one of them a little."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    with torch.no_grad():
        model[0].weight[:, 2:] = 0
        model[2].weight.zero_()
        model[2].weight[0, 0], model[2].weight[0, 1] = 2.0, 1e-3
    one = torch.arange(HIDDEN)[:, None]
    units = Units("hidden", HIDDEN, (Slice("0.weight", 0, one), Slice("2.weight", 1, one)))
    x = torch.randn(512, 4)
    with torch.no_grad():
        data = (x, model(x))
    places = find_places(model, [units], ["0", "2"])
    return model, Batches(data, 64), [Gate(place) for place in places]


SCORES = {
    "0.inputs": torch.tensor([0.0, -1.0, -8.0, -7.0]),
    "hidden": torch.tensor([-1.0, -2.0, -5.0, -9.0, -6.0, -7.0]),
}


def test_what_costs_nothing_goes_and_what_matters_stays() -> None:
    model, batches, gates = network()
    before = {n: p.clone() for n, p in model.named_parameters()}
    found = by_loss(model, gates, SCORES, batches, loss, 1e-9)
    assert found["0.inputs"] == -7.0
    assert found["hidden"] == -5.0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_larger_tolerance_removes_more_but_never_all() -> None:
    model, batches, gates = network()
    some = by_loss(model, gates, SCORES, batches, loss, 1e-4)
    assert some["hidden"] == -2.0
    everything = by_loss(model, gates, SCORES, batches, loss, 1e9)
    assert all(bool((SCORES[n] > t).any()) for n, t in everything.items())


def test_where_nothing_may_go_the_threshold_is_below_all_scores() -> None:
    model, batches, gates = network()
    scores = SCORES | {"hidden": torch.tensor([-9.0, -8.0, 0.0, 0.0, 0.0, 0.0])}
    found = by_loss(model, gates, scores, batches, loss, 1e-9)
    assert bool((scores["hidden"] > found["hidden"]).all())


def test_groups_of_one_score_stay_or_go_together() -> None:
    model, batches, gates = network()
    tied = SCORES | {"hidden": torch.zeros(HIDDEN)}
    found = by_loss(model, gates, tied, batches, loss, 1e9)
    assert found["hidden"] < 0  # not all of them
    tied["hidden"] = torch.tensor([-1.0, -2.0, -2.0, -2.0, -2.0, -2.0])
    assert by_loss(model, gates, tied, batches, loss, 1e9)["hidden"] == -2.0
    assert by_loss(model, gates, tied, batches, loss, 1e-9)["hidden"] < -2.0


def test_samples_count_alike_whatever_batch_they_are_in() -> None:
    """The last batch has one sample, whose loss alone rises when the small unit goes."""
    model, _, gates = network()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        model[0].weight[0, 0] = model[0].weight[1, 1] = 1.0
        model[2].weight[0, :2] = 1.0
    x = torch.zeros(65, 4)
    x[:, 0] = 1.0
    x[64, 1] = 1.0
    with torch.no_grad():
        batches = Batches((x, model(x)), 64, shuffle=False)
    rise = 1 / 65  # a mean over batches would say 1 / 2
    scores = SCORES | {"0.inputs": torch.tensor([9.0, 9.0, 9.0, 9.0])}
    over, under = (by_loss(model, gates, scores, batches, loss, s * rise) for s in (1.1, 0.9))
    assert over["hidden"] == -2.0
    assert under["hidden"] == -5.0


def test_weights_come_back_where_the_loss_raises() -> None:
    model, batches, gates = network()
    before = {n: p.clone() for n, p in model.named_parameters()}
    calls = 0

    def failing(model: nn.Module, batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise FloatingPointError
        return loss(model, batch)

    with pytest.raises(FloatingPointError):
        by_loss(model, gates, SCORES, batches, failing, 1e9)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
