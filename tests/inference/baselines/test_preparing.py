"""What every baseline does before and after its training."""

import copy

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.preparing import (
    Later,
    all_masks,
    finish,
    give_posterior,
    seeded,
    working_copy,
)
from probcomp.inference.training.layers import Noise, from_bayesian
from tests.inference.baselines.networks import loss, network, setting


def test_shared_and_frozen_weights_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.three, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
            self.two.weight = self.one.weight
            self.three.weight.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.three(self.two(self.one(x))))

    _, names = working_copy(setting(model=Tied(), units=()))
    assert names == ["out"]


def test_models_that_cannot_be_pruned_are_refused() -> None:
    frozen = network()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable linear or convolution"):
        working_copy(setting(model=frozen))
    poisoned = network()
    with torch.no_grad():
        poisoned[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="layer '0' holds NaN"):
        working_copy(setting(model=poisoned))


def test_a_model_that_is_not_on_the_cpu_is_refused() -> None:
    with pytest.raises(InputError, match=r"the model is on meta; give model\.cpu\(\)"):
        working_copy(setting(model=network().to("meta")))


def test_only_the_named_layers_get_a_posterior() -> None:
    model = network()
    found = give_posterior(model, ["2"], Noise(torch.Generator()), log_variance=-6.0)
    assert list(found) == ["2.weight"]
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(found["2.weight"].weight_log_sigma, torch.full((3, 12), -3.0))
    assert [type(m) for m in from_bayesian(model)] == [nn.Linear, nn.ReLU, nn.Linear]


def test_a_teacher_holds_the_refit_to_the_given_network() -> None:
    given = setting()
    x = given.batches(0).__iter__().__next__()[0]
    masks = {"0.weight": torch.ones_like(given.model[0].weight, dtype=torch.bool)}

    def gap(share: float) -> float:
        model = copy.deepcopy(given.model)
        with torch.no_grad():
            model[2].weight.mul_(0.1)
        schedule = Schedule(epochs=1, refit_epochs=30, refit_rate=1e-2, refit_teacher=share)
        finish(model, given, schedule, masks, {})
        p, q = (torch.log_softmax(m(x), 1) for m in (given.model, model))
        return float((p.exp() * (p - q)).sum(1).mean())

    assert gap(1.0) < 0.1 * gap(0.0)
    with pytest.raises(InputError, match="refit_teacher is a share"):
        Schedule(refit_teacher=-0.5)


def test_masks_reach_the_biases_of_removed_units() -> None:
    given = setting()
    masks = {n: torch.ones_like(given.model.get_parameter(n), dtype=torch.bool)
             for n in ("0.weight", "2.weight")}  # fmt: skip
    keep = {"hidden": torch.arange(12) != 3}
    whole = all_masks(given.model, given.units, masks, keep)
    assert whole["0.bias"].tolist() == keep["hidden"].tolist()
    assert set(all_masks(given.model, given.units, masks, {})) == set(masks)
    model = network()
    finish(model, given, Schedule(), masks, keep)
    assert not model[0].bias[3]


def test_later_epochs_and_the_global_random_state() -> None:
    batches = setting().batches
    later = Later(batches, 5)
    for one, two in zip(later(2), batches(7), strict=True):
        assert torch.equal(one[0], two[0])
    assert later.samples == batches.samples
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with seeded(1) as noise:
        torch.rand(3)
        assert noise.generator.initial_seed() == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert float(loss(network(), next(iter(batches(0)))).detach()) > 0
