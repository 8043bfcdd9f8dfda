"""Copies derived from a packed weight (expanded, reordered), kept as long as the weight lives."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def derived(source: Tensor, name: object, build: Callable[[], Any]) -> Any:
    """The value of ``build()`` for this tensor, built again only after the tensor was written to.

    The copies are held by weak reference to ``source`` and go with it. A write is seen by
    autograd's version counter, other memory (``source.data = ...``) by its address; inference
    tensors cannot be written to outside inference mode, and there, as through ``source.data``, a
    write in place is not seen: call `forget`.
    """
    state = (-1 if source.is_inference() else source._version, source.data_ptr())
    entry = _COPIES.get(source)
    if entry is None or entry[0] != state:
        # The memory is held too, or a later tensor could be given the same address.
        entry = (state, {}, source.detach())
        _COPIES[source] = entry
    copies = entry[1]
    if name not in copies:
        copies[name] = build()
    return copies[name]


def forget(source: Tensor) -> None:
    """Drop the copies derived from this tensor."""
    _COPIES.pop(source, None)
