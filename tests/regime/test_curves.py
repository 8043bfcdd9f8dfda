"""The trained curve: a barrier on the straight path that a bend goes round."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.curves import bezier_connectivity
from probcomp.regime.landscape import linear_connectivity


class Ring(nn.Module):
    """Classifies as 1 where the weight vector lies outside the unit circle, whatever the input."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([x, y]))

    def forward(self, inputs):
        outside = 4 * (self.w.square().sum() - 1)
        return torch.stack([torch.zeros(()), outside]).expand(len(inputs), 2)


ONES = [(torch.zeros(8, 1), torch.ones(8, dtype=torch.long))] * 4


def test_a_bend_goes_round_a_barrier():
    first, second = Ring(-1.5, 0.3), Ring(1.5, 0.3)
    before = copy.deepcopy(first.state_dict())
    straight, _ = linear_connectivity(first, second, ONES)
    assert straight == -1
    bent, errors = bezier_connectivity(first, second, ONES, epochs=60, lr=0.1)
    assert bent == 0
    assert np.all(errors == 0)
    assert torch.equal(first.w, before["w"])


def test_without_training_the_curve_is_the_chord():
    """phi starts half way, where the quadratic curve is the straight line run at its own pace."""
    bent, errors = bezier_connectivity(Ring(-1.5, 0.3), Ring(1.5, 0.3), ONES, epochs=0, points=5)
    _, straight = linear_connectivity(Ring(-1.5, 0.3), Ring(1.5, 0.3), ONES, points=5)
    np.testing.assert_array_equal(errors, straight)
    assert bent == -1


def test_too_hot_ends_give_positive_connectivity():
    """Ends that have not reached the good region, a curve that does: mc is above zero."""
    first, second = Ring(-0.8, 0.2), Ring(0.8, 0.2)
    bent, errors = bezier_connectivity(first, second, ONES, epochs=200, lr=0.2)
    assert errors[0] == errors[-1] == 1
    assert bent == 1


def test_a_network_is_connected_to_itself_through_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(64, 4)
    batches = [(x[:32], (x[:32, 0] > 0).long()), (x[32:], (x[32:, 0] > 0).long())]
    mc, errors = bezier_connectivity(model, model, batches, epochs=0)
    assert mc == 0
    assert np.ptp(errors) == 0


class Said:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(Ring):
    def forward(self, inputs):
        return Said(super().forward(inputs))


def test_a_network_may_return_an_object_with_logits():
    bent, _ = bezier_connectivity(Ring(-1.5, 0.3), Ring(1.5, 0.3), ONES, epochs=3, lr=0.1)
    first, second = Wrapped(-1.5, 0.3), Wrapped(1.5, 0.3)
    assert bezier_connectivity(first, second, ONES, epochs=3, lr=0.1)[0] == bent


def test_an_end_that_has_diverged_is_refused_without_training():
    with pytest.raises(DivergenceError, match="has diverged"):
        bezier_connectivity(Ring(-1.0, 0.3), Ring(float("nan"), 0.3), ONES, epochs=0)


def test_the_global_random_state_is_left_alone_and_seeded():
    class Noisy(Ring):
        def forward(self, inputs):
            drawn.append(float(torch.rand(())) if self.training else None)
            return super().forward(inputs)

    drawn = []
    before = torch.get_rng_state()
    pair = (Noisy(-1.5, 0.3), Noisy(1.5, 0.3))
    bezier_connectivity(*pair, ONES, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    first, drawn = drawn, []
    torch.rand(1)
    bezier_connectivity(*pair, ONES, epochs=2)
    assert first == drawn
    assert len(set(first)) == 9  # eight steps, and None at the points
    with pytest.raises(InputError, match="'meta'"):
        bezier_connectivity(*(ring.to("meta") for ring in pair), ONES)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="differ"):
        bezier_connectivity(nn.Linear(1, 2), Ring(1.0, 1.0), ONES)
    with pytest.raises(InputError, match="points"):
        bezier_connectivity(Ring(1.0, 1.0), Ring(1.0, 1.0), ONES, points=2)
    with pytest.raises(DivergenceError, match="lower lr"):
        bezier_connectivity(Ring(-1.0, 0.3), Ring(1.0, 0.3), ONES, lr=1e30)
