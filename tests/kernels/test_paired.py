"""Inputs of layers as the model gives them, and timings that take turns."""

import time

import pytest
import torch
from torch import nn

from probcomp.kernels.paired import evaluated, first_inputs, speedup


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def test_the_ratio_is_that_of_the_times() -> None:
    # Sleeping is never shorter than asked; the load of others lengthens both.
    ratio = speedup(Sleeper(0.02), Sleeper(0.002), torch.ones(1), rounds=5)
    assert 2.0 < ratio < 11.0


def test_the_first_input_of_each_layer_that_runs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.named = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.drop = nn.Dropout(0.9)

        def forward(self, x):
            return self.named(input=self.used(self.drop(self.used(x))))

    net = Net()
    x = torch.randn(5, 3)
    seen = first_inputs(
        net, {"used": net.used, "idle": net.idle, "named": net.named}, lambda m: m(x)
    )
    assert list(seen) == ["used"]
    assert torch.equal(seen["used"], x)
    assert net.training
    assert not net.used._forward_pre_hooks
    assert first_inputs(net, {}, lambda m: m(1 / 0)) == {}


def test_modes_come_back_part_by_part_even_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    net[1].eval()

    def fail() -> None:
        with evaluated(net):
            assert not any(part.training for part in net.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [part.training for part in net.modules()] == [True, True, False]
