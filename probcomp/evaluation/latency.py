"""Time per batch of the dense and the compressed model, measured in one interleaved run."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evaluation.estimate import LEVEL, Estimate, check_level

ExampleInputs = tuple[Tensor, ...] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Spread:
    """Milliseconds per batch.

    Attributes:
        median: the median.
        low: 20 % quantile.
        high: 80 % quantile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Both models timed alternately on the same input.

    Attributes:
        batch: samples per call.
        threads: CPU threads that torch used.
        device: ``"cpu"``, ``"cuda:0"`` ...
        repeats: timed calls of each model.
        dense: the dense model's times.
        compressed: the compressed model's times.
        ratio: dense over compressed, median over the pairs, with its interval. Above 1 is faster.
    """

    batch: int
    threads: int
    device: str
    repeats: int
    dense: Spread
    compressed: Spread
    ratio: Estimate


def measure_latency(
    dense: nn.Module,
    compressed: nn.Module,
    inputs: ExampleInputs,
    *,
    repeats: int = 50,
    warmup: int = 5,
    level: float = LEVEL,
    seed: int = 0,
) -> Latency:
    """Time ``dense`` and ``compressed`` in pairs, in random order within a pair.

    A slow moment of the machine then hits both models alike, and the ratio is taken pair by pair.

    Args:
        dense: the model before.
        compressed: the model after, on the same device.
        inputs: positional or named tensors of one batch.
        repeats: timed pairs, at least 10, or the interval does not exist.
        warmup: untimed pairs before.
        level: probability of the ratio's interval.
        seed: seed of the order within pairs.

    Raises:
        InputError: too few repeats, or no input.
    """
    if repeats < 10:
        raise InputError(f"latency needs at least 10 repeats for its interval, got {repeats}")
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    if not tensors:
        raise InputError("latency needs at least one input tensor")
    device = tensors[0].device
    models = (dense, compressed)
    modes = [{module: module.training for module in model.modules()} for model in models]
    order = np.random.default_rng(seed).integers(0, 2, warmup + repeats)
    times = np.zeros((warmup + repeats, 2))
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            for pair, first in enumerate(order):
                for which in (first, 1 - first):
                    times[pair, which] = _once(models[which], inputs, device)
    finally:
        for mode in modes:
            for module, training in mode.items():
                module.training = training
    times = times[warmup:] * 1e3
    return Latency(
        batch=int(tensors[0].shape[0]) if tensors[0].dim() else 1,
        threads=torch.get_num_threads(),
        device=str(device),
        repeats=repeats,
        dense=_spread(times[:, 0]),
        compressed=_spread(times[:, 1]),
        ratio=median_interval(times[:, 0] / times[:, 1], level=level),
    )


def median_interval(values: np.ndarray, *, level: float = LEVEL) -> Estimate:
    """Median with a distribution-free interval between two order statistics.

    With x sorted, [x_(k+1), x_(n-k)] covers the median with probability
    1 - 2 P(Binomial(n, 1/2) <= k); the largest k that keeps at least ``level`` is taken.

    Raises:
        InputError: too few values for any such interval.
    """
    from scipy import stats

    n = len(values)
    tail = (1 - check_level(level)) / 2
    below = int(stats.binom.ppf(tail, n, 0.5))
    below -= int(stats.binom.cdf(below, n, 0.5) > tail)
    if below < 0:
        raise InputError(f"{n} values are too few for a {level:.0%} interval of the median")
    ranked = np.sort(values)
    low, high = float(ranked[below]), float(ranked[n - 1 - below])
    return Estimate(float(np.median(values)), low, high, level, "order statistics of pairs", n)


def _once(model: nn.Module, inputs: ExampleInputs, device: torch.device) -> float:
    _settle(device)
    start = time.perf_counter()
    if isinstance(inputs, Mapping):
        model(**inputs)
    else:
        model(*inputs)
    _settle(device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    if device.type == "cuda":  # kernels run behind the Python call; wait for them
        torch.cuda.synchronize(device)


def _spread(milliseconds: np.ndarray) -> Spread:
    low, median, high = np.quantile(milliseconds, (0.2, 0.5, 0.8))
    return Spread(float(median), float(low), float(high))
