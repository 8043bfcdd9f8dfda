"""The training loop: seeded, resumable, and masks that stay."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.recipe import Recipe
from probcomp.regime.training import TrainState, train
from tests.regime import tiny_task

RECIPE = Recipe(epochs=3, horizon=4, lr=0.2, batch_size=16, weight_decay=1e-2)


@pytest.fixture
def task():
    return tiny_task.task()


def masks_of(model):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(p.shape, generator=generator) < 0.3
        for name, p in model.named_parameters()
        if p.ndim == 2
    }


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.values()))


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_masks_stay_masks_under_momentum_and_weight_decay(task, rho):
    model = task.fresh(0)
    masks = masks_of(model)
    recipe = dataclasses.replace(RECIPE, sam_rho=rho)
    # The dense run leaves momentum on every weight; retraining must not let it act on masked ones.
    state = train(model, task.train, recipe, seed=0)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    longer = dataclasses.replace(recipe, epochs=4)
    train(model, task.train, longer, seed=0, state=state, masks=masks)
    for name, mask in masks.items():
        assert torch.all(model.get_parameter(name)[~mask] == 0)
        assert torch.any(model.get_parameter(name)[mask] != 0)


def test_without_the_masks_momentum_revives_weights(task):
    """The test above would pass for nothing if masked weights did not move by themselves."""
    model = task.fresh(0)
    state = train(model, task.train, RECIPE, seed=0)
    with torch.no_grad():
        model[0].weight.mul_(0)
    train(model, task.train, dataclasses.replace(RECIPE, epochs=4), seed=0, state=state)
    assert torch.all(model[0].weight != 0)


@pytest.mark.parametrize(("middle", "dropout"), [(1, None), (2, 0.2)])
def test_a_run_in_two_parts_equals_one(task, middle, dropout):
    recipe = dataclasses.replace(RECIPE, dropout=dropout)
    whole = task.fresh(0)
    train(whole, task.train, recipe, seed=5, augment=task.augment)
    parts = task.fresh(0)
    half = dataclasses.replace(recipe, epochs=middle)
    state = train(parts, task.train, half, seed=5, augment=task.augment)
    train(parts, task.train, recipe, seed=5, augment=task.augment, state=state)
    assert same(whole, parts.state_dict())


def test_it_is_plain_sgd_and_leaves_the_global_state_alone(task):
    model, reference = nn.Linear(6, 3), nn.Linear(6, 3)
    reference.load_state_dict(model.state_dict())
    x, y = task.train
    recipe = Recipe(2, 2, 0.1, len(x), 0.9, 0.01, drops=((0.5, 0.1),))  # full batches
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(model, task.train, recipe, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for rate in (0.1, 0.01):
        gradients = torch.autograd.grad(
            F.cross_entropy(reference(x), y), list(reference.parameters())
        )
        with torch.no_grad():
            for p, g, v in zip(reference.parameters(), gradients, velocity):
                v.mul_(0.9).add_(g + 0.01 * p)
                p.sub_(rate * v)
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)  # float32 sums in another order


def test_sharpness_aware_step_uses_the_gradient_at_the_worst_point(task):
    model, reference = nn.Linear(6, 3), nn.Linear(6, 3)
    reference.load_state_dict(model.state_dict())
    x, y = task.train
    train(model, task.train, Recipe(1, 1, 0.1, len(x), 0.0, 0.0, sam_rho=0.5), seed=0)
    first = torch.autograd.grad(F.cross_entropy(reference(x), y), list(reference.parameters()))
    norm = torch.cat([g.flatten() for g in first]).norm()
    worst = nn.Linear(6, 3)
    with torch.no_grad():
        for w, p, g in zip(worst.parameters(), reference.parameters(), first):
            w.copy_(p + 0.5 * g / norm)
    second = torch.autograd.grad(F.cross_entropy(worst(x), y), list(worst.parameters()))
    for p, q, g in zip(model.parameters(), reference.parameters(), second):
        torch.testing.assert_close(p, q - 0.1 * g, atol=1e-6, rtol=1e-5)


def test_sam_leaves_batch_norm_statistics_of_the_perturbed_network_out(task):
    plain, aware = task.fresh(0), task.fresh(0)
    x = (task.train[0][:16], task.train[1][:16])
    train(plain, x, Recipe(1, 1, 0.1, 16, 0.0, 0.0), seed=0)
    train(aware, x, Recipe(1, 1, 0.1, 16, 0.0, 0.0, sam_rho=0.5), seed=0)
    assert torch.equal(plain[1].running_mean, aware[1].running_mean)


def test_a_loss_that_is_not_finite_stops_the_run(task):
    data = (task.train[0] * 1e38, task.train[1])
    with pytest.raises(DivergenceError, match="step 0"):
        train(nn.Linear(6, 3), data, RECIPE, seed=0)


def test_weights_that_are_lost_in_the_last_step_are_seen(task):
    """No later loss would tell: without the look at the end this is a finished run."""
    one = Recipe(1, 1, 1e30, len(task.train[0]))
    data = (task.train[0] * 1e10, task.train[1])
    with pytest.raises(DivergenceError, match="after the last of 1 steps; lower lr 1e\\+30"):
        train(nn.Linear(6, 3), data, one, seed=0)


def test_averages_of_batch_norm_that_overflow_are_seen(task):
    """Training divides by the batch's own variance; only evaluation uses the average."""
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    x = task.train[0] * 3e19  # squares pass the largest float32
    one = Recipe(1, 1, 0.1, len(x))
    with pytest.raises(DivergenceError, match="not finite after the last"):
        train(model, (x, task.train[1]), one, seed=0)


def test_momentum_goes_to_its_parameter(task):
    """A checkpoint is read to the CPU in its own type; here the type stands for the device."""
    whole, parts = task.fresh(0), task.fresh(0)
    half = dataclasses.replace(RECIPE, epochs=1)
    train(whole, task.train, RECIPE, seed=5)
    state = train(parts, task.train, half, seed=5)
    read = {name: buffer.double() for name, buffer in state.momentum.items()}
    kept = {name: buffer.clone() for name, buffer in read.items()}
    train(parts, task.train, RECIPE, seed=5, state=TrainState(state.step, read))
    assert same(whole, parts.state_dict())
    assert all(torch.equal(read[name], kept[name]) for name in kept)


def test_a_network_may_return_an_object_with_logits(task):
    class Said(nn.Linear):
        def forward(self, x):
            return type("Output", (), {"logits": super().forward(x)})()

    plain, wrapped = nn.Linear(6, 3), Said(6, 3)
    wrapped.load_state_dict(plain.state_dict())
    recipe = dataclasses.replace(RECIPE, sam_rho=0.1)
    for model in (plain, wrapped):
        train(model, task.train, recipe, seed=0)
    assert same(plain, wrapped.state_dict())


def test_masks_that_fit_nothing_are_refused(task):
    with pytest.raises(InputError, match="no such parameter"):
        train(task.fresh(0), task.train, RECIPE, seed=0, masks={"nowhere": torch.ones(2)})
    with pytest.raises(InputError, match="expected"):
        train(task.fresh(0), task.train, RECIPE, seed=0, masks={"0.weight": torch.ones(2)})


def test_dropout_needs_a_layer():
    data = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="no dropout layer"):
        train(nn.Linear(6, 3), data, dataclasses.replace(RECIPE, dropout=0.1), seed=0)


def test_a_finished_state_is_left_as_it_is(task):
    model = task.fresh(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert train(model, task.train, RECIPE, seed=0, state=TrainState(10_000)).step == 10_000
    assert same(model, before)
