"""Where an integer came from: which attribute of which module sizes which tensor.

Python code that reshapes with ``self.num_heads`` must see another number after a cut. Which
attribute that is cannot be read off a name, and matching values is ambiguous (heads may equal
layers). So every integer attribute of a copy of the model is replaced by a `TracedInt`, which
behaves like the integer and remembers its origin through arithmetic. One forward pass under a
torch function mode then shows the expression behind every size that reaches an operator: C++
argument parsing, which would flatten it to a plain integer, has not happened there yet.
"""

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True)
class Slot:
    """An integer attribute of a module: ``path`` of the module, steps to the value inside it.

    ``steps`` is an attribute name, then attribute names of a private configuration object or
    positions in a tuple: ``("num_heads",)``, ``("config", "num_heads")``, ``("shape", 1)``.
    """

    path: str
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        inner = ".".join(map(str, self.steps))
        return f"{self.path}.{inner}" if self.path else inner


@dataclass(frozen=True)
class Dim:
    """An integer read from the shape of a tensor: it follows the tensor when widths change."""

    old: int


@dataclass(frozen=True)
class Op:
    """Arithmetic over two expressions."""

    symbol: str
    left: "Expression"
    right: "Expression"


Expression = Slot | Dim | Op | int


def slots(expression: Expression) -> Iterator[Slot]:
    """The attributes an expression reads, with repeats."""
    if isinstance(expression, Op):
        yield from slots(expression.left)
        yield from slots(expression.right)
    elif isinstance(expression, Slot):
        yield expression


def values(
    expression: Expression,
    assignment: Mapping[Slot, int],
    follow: Callable[[int], frozenset[int]],
) -> frozenset[int]:
    """The values an expression can take when attributes are as assigned.

    A tensor size may follow its tensor: ``follow(old)`` gives what a size ``old`` may become.
    """
    if isinstance(expression, Slot):
        return frozenset((assignment[expression],))
    if isinstance(expression, Dim):
        return follow(expression.old)
    if isinstance(expression, int):
        return frozenset((expression,))
    apply = _OPERATORS[expression.symbol]
    found = set()
    for a in values(expression.left, assignment, follow):
        for b in values(expression.right, assignment, follow):
            if b or expression.symbol not in ("//", "%"):
                found.add(apply(a, b))
    return frozenset(found)


class TracedInt(int):
    """An integer that remembers the expression it came from."""

    expression: Expression

    def __new__(cls, value: int, expression: Expression) -> "TracedInt":
        self = super().__new__(cls, value)
        self.expression = expression
        return self

    def __copy__(self) -> "TracedInt":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedInt":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))

    def __neg__(self) -> "TracedInt":
        return _combine("-", 0, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other


def _combine(symbol: str, left: Any, right: Any) -> Any:
    value = _OPERATORS[symbol](int(left), int(right))
    return TracedInt(value, Op(symbol, expression_of(left), expression_of(right)))


def _arithmetic(symbol: str, swapped: bool) -> Callable[[TracedInt, Any], Any]:
    def method(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        return _combine(symbol, other, self) if swapped else _combine(symbol, self, other)

    return method


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.items():
    setattr(TracedInt, f"__{_name}__", _arithmetic(_symbol, swapped=False))
    setattr(TracedInt, f"__r{_name}__", _arithmetic(_symbol, swapped=True))


def expression_of(value: SupportsIndex) -> Expression:
    """The expression behind an integer; a plain integer is a literal in somebody's code."""
    return value.expression if isinstance(value, TracedInt) else int(value)


# Instrumenting a model ---------------------------------------------------------------------------

_NOT_SIZES = frozenset({"training", "_parameters", "_buffers", "_modules"})


def is_config(value: Any) -> bool:
    """Whether an attribute is a configuration object: it can describe itself as a dict."""
    return not isinstance(value, nn.Module | type) and callable(getattr(value, "to_dict", None))


def _is_size(value: Any) -> bool:
    # 1 has nothing to lose, and a bool is an int
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def instrument(model: nn.Module) -> dict[Slot, int]:
    """Replace the integer attributes of ``model`` in place; returns them with their values.

    Each module gets its own copy of a configuration object it holds, since layers that shared
    one may need different numbers after a cut.
    """
    found: dict[Slot, int] = {}

    def traced(value: int, slot: Slot) -> TracedInt:
        found[slot] = int(value)
        return TracedInt(int(value), slot)

    for path, module in model.named_modules():
        for name, value in list(vars(module).items()):
            if name in _NOT_SIZES or (name.startswith("_") and not is_config(value)):
                continue
            if _is_size(value):
                module.__dict__[name] = traced(value, Slot(path, (name,)))
            elif isinstance(value, tuple | list) and any(map(_is_size, value)):
                items = [
                    traced(v, Slot(path, (name, i))) if _is_size(v) else v
                    for i, v in enumerate(value)
                ]
                module.__dict__[name] = _as(value, items)
            elif is_config(value):
                private = copy.deepcopy(value)
                module.__dict__[name] = private
                for key, entry in list(vars(private).items()):
                    if _is_size(entry):
                        private.__dict__[key] = traced(entry, Slot(path, (name, key)))
    return found


def _as(like: Any, items: list[Any]) -> Any:
    if isinstance(like, list):
        return items
    if isinstance(like, torch.Size):
        return torch.Size(items)
    return type(like)(*items) if hasattr(like, "_fields") else tuple(items)


def assign(model: nn.Module, edits: Mapping[Slot, int]) -> None:
    """Write new attribute values into ``model`` in place. A configuration becomes private."""
    modules = dict(model.named_modules())
    copied: set[tuple[str, str]] = set()
    for slot, value in edits.items():
        module, (name, *rest) = modules[slot.path], slot.steps
        if not rest:
            module.__dict__[str(name)] = value
            continue
        held = module.__dict__[str(name)]
        if isinstance(held, tuple | list):
            items = list(held)
            items[int(rest[0])] = value
            module.__dict__[str(name)] = _as(held, items)
            continue
        if (slot.path, str(name)) not in copied:
            held = module.__dict__[str(name)] = copy.deepcopy(held)
            copied.add((slot.path, str(name)))
        held.__dict__[str(rest[0])] = value


# Watching a forward pass -------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One operator call with sizes in it: in which module, with which arguments, giving what."""

    module: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass
class Watch(TorchFunctionMode):
    """Logs every operator that takes sizes, and lets shapes carry provenance."""

    ops: frozenset[str]
    calls: list[Call] = field(default_factory=list)
    _stack: list[str] = field(default_factory=lambda: [""])

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, torch.Size):
            return torch.Size([TracedInt(n, Dim(n)) for n in map(int, result)])
        name = getattr(func, "__name__", "")
        if name == "size" and type(result) is int:
            return TracedInt(result, Dim(result))
        if name in self.ops:
            self.calls.append(
                Call(
                    self._stack[-1],
                    name,
                    tuple(None if isinstance(a, Tensor) else a for a in args),
                    {k: None if isinstance(v, Tensor) else v for k, v in kwargs.items()},
                    shapes(args),
                    shapes(result),
                )
            )
        return result

    def follow(self, model: nn.Module) -> list[Any]:
        """Hooks that keep the path of the module being called; the caller removes them."""
        handles = []
        for path, module in model.named_modules():

            def enter(module: nn.Module, args: Any, path: str = path) -> None:
                self._stack.append(path)

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                self._stack.pop()

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        return handles


def shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors in an argument list or a result, in order."""
    if isinstance(value, Tensor):
        return (tuple(map(int, value.shape)),)
    if isinstance(value, tuple | list):
        return tuple(s for item in value for s in shapes(item))
    return ()
