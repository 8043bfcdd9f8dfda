"""Dataclasses to JSON types and back, driven by their annotations. No pickle, no class names."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from probcomp.errors import InputError

T = TypeVar("T")


def to_plain(value: Any, lost: list[str] | None = None, path: str = "") -> Any:
    """Dictionaries, lists, numbers and strings for ``value``.

    Args:
        value: a dataclass, mapping, sequence, number (Python or NumPy scalar) or string.
        lost: receives the path of every number that is not finite; such a number becomes ``None``.
        path: where ``value`` stands, for the names in ``lost``.
    """
    lost = [] if lost is None else lost

    def below(name: object) -> str:
        return f"{path}.{name}" if path else str(name)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [entry.name for entry in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name), lost, below(name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry, lost, below(key)) for key, entry in value.items()}
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Sequence):
        return [to_plain(entry, lost, below(i)) for i, entry in enumerate(value)]
    if hasattr(value, "item") and not isinstance(value, (int, float)):  # NumPy and torch scalars
        value = value.item()
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        lost.append(path)
        return None
    raise InputError(f"{path or 'value'}: {type(value).__name__} has no JSON form")


def from_plain(kind: type[T], value: Any, path: str) -> T:
    """The inverse of `to_plain` for the annotated type ``kind``.

    Raises:
        InputError: a key is missing or unknown, naming ``path``.
    """
    return _read(kind, value, path)


def _read(kind: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _read(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{path} must be a list, got {type(value).__name__}")
        inner = args[0]
        return tuple(_read(inner, entry, f"{path}[{i}]") for i, entry in enumerate(value))
    if kind is float:
        return math.nan if value is None else float(value)
    return value


def _read_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{path} must be an object, got {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    required = (n for n, f in fields.items() if f.default is f.default_factory)
    missing = sorted(name for name in required if name not in value)
    if unknown or missing:
        parts = [f"missing {', '.join(missing)}"] * bool(missing)
        parts += [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise InputError(f"{path} does not fit {kind.__name__}: {'; '.join(parts)}")
    return kind(**{name: _read(hints[name], v, f"{path}.{name}") for name, v in value.items()})
