"""A model that is run again and again with a few changed weights, without repeating what precedes.

Up to the first changed module every leaf module gives out what it gave in the dense pass, so its
output is taken from there; what happens between modules is cheap and is run. That needs passes that
call the same modules in the same order, which evaluation on the same batch does.
"""

from collections.abc import Callable, Collection
from typing import Any

from torch import nn


class Replay:
    """Leaf modules of a model whose outputs are recorded by batch, and given back.

    Args:
        model: A private copy: its modules' ``forward`` is replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self.records: dict[int, list[tuple[nn.Module, Any]]] = {}
        self._changed: frozenset[nn.Module] | None = None
        self._record: list[tuple[nn.Module, Any]] | None = None
        self._at = 0
        for module in model.modules():
            if not any(True for _ in module.children()):
                module.forward = self._wrapped(module, module.forward)

    def record(self, batch: int, run: Callable[[], Any]) -> Any:
        """Run the dense model on a batch, and keep what its modules give out."""
        self._record = self.records[batch] = []
        try:
            return run()
        finally:
            self._record = None

    def run(self, batch: int, changed: Collection[nn.Module], run: Callable[[], Any]) -> Any:
        """Run on a recorded batch, from the first changed module on."""
        self._changed, self._at, self._batch = frozenset(changed), 0, batch
        try:
            return run()
        finally:
            self._changed = None

    def _wrapped(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._changed:
                known = self.records[self._batch]
                there = self._at < len(known) and known[self._at][0] is module
                if there and module not in self._changed:
                    self._at += 1
                    return known[self._at - 1][1]
                self._changed = None  # from here on all is new
            result = forward(*args, **kwargs)
            if self._record is not None:
                self._record.append((module, result))
            return result

        return called
