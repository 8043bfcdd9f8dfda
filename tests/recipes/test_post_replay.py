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
