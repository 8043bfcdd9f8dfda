"""A stand-in for a compiled kernel: it keeps what a launcher passes, and computes nothing."""

import inspect
from types import ModuleType
from typing import Any

from torch import Tensor


class Recorder:
    """Takes a kernel's place; ``grid``, ``sent`` (by name) and ``launches`` are of its launches."""

    def __init__(self, kernel: Any, gaps: bool) -> None:
        self.gaps = gaps
        self.names = list(inspect.signature(kernel.fn).parameters)
        self.grid: tuple[int, ...] = ()
        self.sent: dict[str, Any] = {}
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grid = grid
        return self._take

    def _take(self, *values: Any, **named: Any) -> None:
        self.launches += 1
        self.sent = dict(zip(self.names, values)) | named
        missing = set(self.names) - set(self.sent)
        assert not missing, f"the kernel was not given {missing}"
        # A kernel reads by address and stride: what it gets must lie as it assumes.
        for name, value in self.sent.items():
            if isinstance(value, Tensor) and value.dim() and not self.gaps:
                assert value.stride(-1) == 1, f"{name} has a gap between neighbours"


def record(monkeypatch: Any, module: ModuleType, name: str, *, gaps: bool = False) -> Recorder:
    """Replace a kernel of a launcher's module, and let CPU tensors pass.

    ``gaps``: The kernel is given every stride, so neighbours need not lie side by side.
    """
    recorder = Recorder(getattr(module, name), gaps)
    monkeypatch.setattr(module, name, recorder)
    monkeypatch.setattr(module, "check_device", lambda x: None)
    return recorder


def covered(grid: int, tile: int, size: int) -> bool:
    """Whether programs of ``tile`` entries cover ``size`` of them, with no program to spare."""
    return (grid - 1) * tile < size <= grid * tile
