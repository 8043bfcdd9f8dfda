"""Runs that begin at the first changed module against whole runs."""

import copy

import pytest
import torch
from torch import Tensor, nn

from probcomp.recipes.post_replay import Replay


class Counted(nn.Linear):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        Counted.calls += 1
        return super().forward(input)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Counted(3, 3) for _ in range(4)))


@pytest.mark.parametrize("which", range(4))
def test_only_what_follows_a_change_is_run(which: int) -> None:
    model = network()
    x = torch.randn(5, 3)
    replay = Replay(model)
    dense = replay.record(0, lambda: model(x))
    old = model[which].weight.detach().clone()
    with torch.no_grad():
        model[which].weight.mul_(2)
    expected = copy.deepcopy(network())
    with torch.no_grad():
        expected[which].weight.mul_(2)
    wanted = expected(x)
    Counted.calls = 0
    assert torch.equal(replay.run(0, {model[which]}, lambda: model(x)), wanted)
    assert Counted.calls == 4 - which
    with torch.no_grad():
        model[which].weight.copy_(old)
    assert torch.equal(replay.run(0, {model[3]}, lambda: model(x)), dense)


class InPlace(nn.Module):
    """A residual block that changes outputs, and inputs, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.relu, self.keep = nn.ReLU(inplace=True), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.relu(h)  # what it gives out is not used
        y = self.keep(self.second(h))
        y += x
        y = self.relu(y)
        y[:, 0] = 1
        return self.last(y)


@pytest.mark.parametrize("name", ["last", "second"])
@torch.no_grad()
def test_outputs_that_are_changed_in_place_are_replayed_as_they_were(name: str) -> None:
    torch.manual_seed(0)
    model, x = InPlace().eval(), torch.randn(5, 3)
    fresh = copy.deepcopy(model)
    replay = Replay(model)
    assert torch.equal(replay.record(0, lambda: model(x)), fresh(x))
    for _ in range(2):
        for each in (model, fresh):
            each.get_submodule(name).weight.mul_(0.5)
        changed = {model.get_submodule(name)}
        assert torch.equal(replay.run(0, changed, lambda: model(x)), fresh(x))


class Inner(nn.Module):
    """Reads a weight of a module that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) @ self.unused.weight)


@torch.no_grad()
def test_a_changed_module_that_is_never_called_makes_a_whole_run() -> None:
    torch.manual_seed(0)
    model, x = Inner(), torch.randn(5, 3)
    replay = Replay(model)
    dense = replay.record(0, lambda: model(x))
    model.unused.weight.mul_(2)
    found = replay.run(0, {model.unused}, lambda: model(x))
    torch.testing.assert_close(found, 2 * dense - model.last.bias)


class Experts(nn.Module):
    """Weights of its own, and an activation that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.activation = nn.Parameter(torch.eye(3)), nn.Tanh()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.activation(x @ self.up)


def test_a_module_with_weights_around_modules_without_is_not_run_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Experts(), nn.Linear(3, 3))
    x = torch.randn(5, 3)
    replay = Replay(model)
    dense = replay.record(0, lambda: model(x))
    assert model[0].calls == 1
    assert torch.equal(replay.run(0, {model[1]}, lambda: model(x)), dense)
    assert model[0].calls == 1
    with torch.no_grad():
        model[0].up.mul_(2)
    found = replay.run(0, {model[0]}, lambda: model(x))
    assert model[0].calls == 2
    torch.testing.assert_close(found, model[1](torch.tanh(2 * x)))
