"""Registries: names from the command line or a configuration file to the objects they stand for."""

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from probcomp.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A typed table of names. Entries are objects, or ``"module:attribute"`` read on first use.

    Used only where a string picks the object and others may extend the table: priors, methods,
    decoders, kernels.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters an object under ``name``."""

        def enter(entry: T) -> T:
            self.add(name, entry)
            return entry

        return enter

    def add(self, name: str, entry: T | str) -> None:
        """Enter an object, or the lazy path ``"module:attribute"``, under ``name``."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = getattr(importlib.import_module(module), attribute)
            self._entries[name] = entry
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
