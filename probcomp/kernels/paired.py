"""Paired timings of a layer and its packed twin, on the input that the model gives it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def first_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[nn.Module], Any]
) -> dict[str, Tensor]:
    """The first input of each layer in one run of the model."""
    if not layers:
        return {}
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, args, name=name: _note(seen, name, args))
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode(), evaluated(model):
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every part gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _note(seen: dict[str, Tensor], name: str, args: tuple) -> None:
    if args and isinstance(args[0], Tensor):  # a layer called by keyword is left alone
        seen.setdefault(name, args[0].detach())


def speedup(dense: nn.Module, packed: nn.Module, x: Tensor, rounds: int) -> float:
    """Time of ``dense`` over that of ``packed``: median ratio of paired timings on ``x``.

    A call of each comes first, to warm caches and derived copies.
    """
    wait = torch.cuda.synchronize if x.is_cuda else _nothing
    with torch.inference_mode():
        repeats = 1
        for layer in (dense, packed):
            layer(x)
            start = time.perf_counter()
            layer(x)
            wait()
            repeats = max(repeats, min(100, int(5e-4 / max(time.perf_counter() - start, 1e-7))))
        ratios = []
        for _ in range(rounds):
            times = []
            for layer in (dense, packed):
                start = time.perf_counter()
                for _ in range(repeats):
                    layer(x)
                wait()
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def _nothing() -> None:
    """A CPU has nothing to wait for."""
