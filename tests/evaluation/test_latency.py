import time

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from probcomp.errors import InputError
from probcomp.evaluation import measure_latency
from probcomp.evaluation.latency import median_interval


class Sleep(nn.Module):
    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.seconds, self.calls = milliseconds / 1e3, []

    def forward(self, x):
        self.calls.append((time.perf_counter(), self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return x


def test_measures_known_times_alternately() -> None:
    slow, fast = Sleep(8), Sleep(2)
    found = measure_latency(slow, fast, (torch.zeros(5, 3),), repeats=12, warmup=2)
    # A sleep is never shorter than asked; how much longer depends on the machine's load.
    assert found.dense.median >= 8
    assert found.compressed.median >= 2
    assert 1 < found.ratio.value <= 8 / 2 * 1.05
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert (found.batch, found.repeats, found.device) == (5, 12, "cpu")
    assert found.threads == torch.get_num_threads()
    assert len(slow.calls) == len(fast.calls) == 14
    order = sorted([(t, "s") for t, *_ in slow.calls] + [(t, "f") for t, *_ in fast.calls])
    pairs = [{order[i][1], order[i + 1][1]} for i in range(0, 28, 2)]
    assert all(pair == {"s", "f"} for pair in pairs)
    assert len({order[i][1] for i in range(0, 28, 2)}) == 2  # either goes first at times
    assert not any(training or grad for _, training, grad in slow.calls)
    assert slow.training


def test_named_inputs() -> None:
    class Named(nn.Module):
        def forward(self, a, b):
            return a + b

    inputs = {"a": torch.zeros(4, 2), "b": torch.zeros(4, 2)}
    assert measure_latency(Named(), Named(), inputs, repeats=10, warmup=0).batch == 4


@pytest.mark.parametrize("n", [10, 11, 50])
def test_median_interval_covers(n) -> None:
    """The order statistics have at least the coverage asked for, and the next inner pair less."""
    found = median_interval(np.arange(n, dtype=float))
    below = int(found.low)
    assert found.high == n - 1 - below
    assert found.value == (n - 1) / 2
    assert 1 - 2 * stats.binom.cdf(below, n, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(below + 1, n, 0.5) < 0.95


def test_refuses() -> None:
    with pytest.raises(InputError, match="at least 10"):
        measure_latency(Sleep(0), Sleep(0), (torch.zeros(1),), repeats=5)
    with pytest.raises(InputError, match="at least one input"):
        measure_latency(Sleep(0), Sleep(0), ())
    with pytest.raises(InputError, match="too few"):
        median_interval(np.arange(4.0))
