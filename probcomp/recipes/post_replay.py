"""A model that is run again and again with a few changed weights, without repeating what precedes.

Up to the first changed module every leaf module gives out what it gave in the dense pass, so its
output is taken from there; what happens between modules is cheap and is run. A leaf is a module
without others inside, or one with weights of its own whose inner modules have none (fused experts).
That needs passes that call the same modules in the same order, which evaluation on the same batch
does.

A pass may change an output in place (``y += x``, a ReLU in place): of such outputs a copy is kept,
by a second pass, and each run gets a copy of its own. Modules that change their inputs, or give out
a part of them, are run again, and so are those that give out anything but a tensor.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(eq=False)
class _Call:
    """A call of a leaf module: its output, a copy where the pass changes that, or neither."""

    module: nn.Module
    output: Tensor | None = None
    copy: Tensor | None = None
    version: int = 0

    def end(self) -> None:
        """The pass is over."""
        if self.changed:
            self.output = None
        else:
            self.copy = None

    @property
    def changed(self) -> bool:
        """Whether the output is no longer what it was."""
        return self.output is not None and self.output._version != self.version

    def again(self) -> Tensor | None:
        """What the module gave out; ``None`` where it has to be run."""
        return self.output if self.copy is None else self.copy.clone()


class Replay:
    """Leaf modules of a model whose outputs are recorded by batch, and given back.

    Args:
        model: A private copy: its modules' ``forward`` is replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self.records: dict[int, list[_Call]] = {}
        self._changed: frozenset[nn.Module] | None = None
        self._record: list[_Call] | None = None
        self._calls: list[_Call] = []
        self._copied: frozenset[int] = frozenset()
        self._at = 0
        for module in dict.fromkeys(_leaves(model)):
            module.forward = self._wrapped(module, module.forward)

    def record(self, batch: int, run: Callable[[], Any]) -> Any:
        """Run the dense model on a batch, and keep what its modules give out."""
        found = self._recorded(run, frozenset())
        changed = frozenset(n for n, call in enumerate(self._calls) if call.changed)
        if changed:
            found = self._recorded(run, changed)
        for call in self._calls:
            call.end()
        self.records[batch] = self._calls
        return found

    def _recorded(self, run: Callable[[], Any], copied: frozenset[int]) -> Any:
        """Run, with copies of the outputs of some calls, which the pass changes."""
        self._calls, self._copied = [], copied
        self._record = self._calls
        try:
            return run()
        finally:
            self._record = None

    def run(self, batch: int, changed: Collection[nn.Module], run: Callable[[], Any]) -> Any:
        """Run on a recorded batch, from the first changed module on.

        From the start if one of them was not called as a module: its weights are read elsewhere.
        """
        seen = set(changed) <= {call.module for call in self.records[batch]}
        self._changed, self._at, self._batch = frozenset(changed) if seen else None, 0, batch
        try:
            return run()
        finally:
            self._changed = None

    def _wrapped(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._changed:
                known = self.records[self._batch]
                there = self._at < len(known) and known[self._at].module is module
                if there and module not in self._changed:
                    self._at += 1
                    found = known[self._at - 1].again()
                    return forward(*args, **kwargs) if found is None else found
                self._changed = None  # from here on all is new
            if self._record is None:
                return forward(*args, **kwargs)
            inputs = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            versions = [_version(t) for t in inputs]
            result = forward(*args, **kwargs)
            call = _Call(module)
            if versions == [_version(t) for t in inputs] and _own(result, inputs):
                copy = result.clone() if len(self._record) in self._copied else None
                call = _Call(module, result, copy, result._version)
            self._record.append(call)
            return result

        return called


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    inner = list(module.children())
    own = any(True for _ in module.parameters(recurse=False))
    if not inner or (own and not any(True for c in inner for _ in _held(c))):
        yield module
    else:
        for child in inner:
            yield from _leaves(child)


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _own(result: Any, inputs: list[Tensor]) -> bool:
    """Whether a result is a tensor that shares no memory with the inputs, and can be watched."""
    if not isinstance(result, Tensor) or result.is_inference():
        return False
    mine = result.untyped_storage().data_ptr()
    return all(t.untyped_storage().data_ptr() != mine for t in inputs)
