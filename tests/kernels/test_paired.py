"""Inputs of layers as the model gives them, and timings that take turns."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from probcomp.kernels import paired
from probcomp.kernels.paired import evaluated, first_inputs, speedup


class Slow(nn.Module):
    """Lets the clock go on by some seconds; a real one would also tell the load of the machine."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, x):
        self.clock[0] += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        return x


def test_the_ratio_is_that_of_the_times(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(paired, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    dense = Slow(clock, [9.0, 0.02])  # the first call, that warms up, does not count
    assert speedup(dense, Slow(clock, [5.0, 0.002]), torch.ones(1), 5) == pytest.approx(10)
    # One round that was disturbed does not move the median.
    dense = Slow(clock, [0.02, 0.02, 0.02, 7.0, 0.02])
    assert speedup(dense, Slow(clock, [0.04]), torch.ones(1), 5) == pytest.approx(0.5)


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
