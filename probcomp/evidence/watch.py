r"""Watching read-outs during a forward pass: what each gives out, and what that is added to.

A read-out *arrives* when the first operation is about to read its output: by then whatever the
output is added to (a residual stream) is known. Dropout is looked through, and so is a batch norm,
whose scale is kept. At that point the weights may still be changed: `Arrival.again` computes the
output anew, in place, and the pass goes on with it.

Works on any module, without tracing. Operations are seen where PyTorch's function modes see them; a
read-out that is called again before its output was read, or twice in a pass, is `OutOfStep`.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from probcomp.errors import InputError
from probcomp.evidence.collect import Run, evaluating
from probcomp.evidence.matrices import Matrix

NORM = inspect.signature(F.batch_norm)
ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__)
PASSED = (F.dropout, torch.dropout)
_METADATA = """
    __hash__ __len__ device dim dtype element_size get_device is_complex is_contiguous is_cpu
    is_cuda is_floating_point is_leaf is_meta is_mps is_nested is_quantized is_sparse is_xpu
    layout names ndim ndimension nelement numel requires_grad shape size stride
"""
METADATA = frozenset(_METADATA.split())
"""What may be asked of an output that nothing has filled in yet; all else reads it."""


class OutOfStep(Exception):
    """Read-outs are not each called once, one after the other."""


@dataclass(eq=False)
class Arrival:
    """A read-out whose output is about to be read.

    Attributes:
        name: Parameter name of the read-out.
        module: Its module.
        inputs: What the module was called with.
        output: What it gave.
        residual: What the output, or its batch norm, is added to; ``None`` where it is not.
        scale: Scale of a batch norm in between, one for each output; ``None`` without one.
        mean: Its running mean.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    output: Tensor
    residual: Tensor | None = None
    scale: Tensor | None = None
    mean: Tensor | None = None
    last: Tensor | None = None
    _steps: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any], Tensor]] = field(
        default_factory=list
    )

    def again(self, forward: Callable[..., Tensor] | None = None) -> None:
        """The output with the weights as they are now, in place, and what was looked through.

        Args:
            forward: Computes it, given the module and its inputs. By default the class's own does;
                `forward` of the module itself may be a placeholder.
        """
        self.output.copy_((forward or type(self.module).forward)(self.module, *self.inputs))
        for func, args, kwargs, result in self._steps:
            result.copy_(func(*args, **kwargs))


class _Pass(threading.local):
    """The watch of the forward pass that runs in this thread."""

    watch: "Watch | None" = None


_PASS = _Pass()


def _out_of_step(name: str) -> None:
    raise OutOfStep(name)


class Watch(TorchFunctionMode):
    """Calls ``arrive`` for each read-out of one forward pass, and ``lost`` where it cannot."""

    def __init__(self, arrive: Callable[[Arrival], None], residual: bool) -> None:
        super().__init__()
        self.arrive, self.look = arrive, residual
        self.lost: Callable[[str], None] = _out_of_step
        self.names: set[str] = set()
        self.pending: Arrival | None = None

    def __enter__(self) -> "Watch":
        _PASS.watch = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _PASS.watch = None
        super().__exit__(*error)

    def called(self, arrival: Arrival) -> None:
        if self.pending is not None or arrival.name in self.names:
            self.lost(arrival.name)
        self.names.add(arrival.name)
        self.pending = arrival
        if not self.look:
            self._arrived()

    def ended(self, outputs: Any) -> None:
        """The pass is over; a read-out may be the model's output."""
        if self.pending is None:
            return
        parts = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
        if any(t is self.pending.last for t in _inside(tuple(parts), {})):
            self._arrived()
        else:
            self.lost(self.pending.name)

    def _arrived(self) -> None:
        arrival, self.pending = self.pending, None
        assert arrival is not None
        self.arrive(arrival)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        arrival = self.pending
        if arrival is None:
            return func(*args, **kwargs)
        mine = [a is arrival.last for a in args]
        if not any(mine) and not any(t is arrival.last for t in _inside(args, kwargs)):
            return func(*args, **kwargs)
        if func in ADDITIONS and len(args) == 2 and mine.count(True) == 1 and not kwargs:
            other = args[mine.index(False)]
            if isinstance(other, Tensor) and other.shape == arrival.output.shape:
                arrival.residual = other
            self._arrived()
        elif func in PASSED:
            result = func(*args, **kwargs)
            _look_through(arrival, func, args, kwargs, result)
            return result
        elif func is F.batch_norm and arrival.mean is None and mine[0]:
            given = NORM.bind(*args, **kwargs)
            given.apply_defaults()
            norm = given.arguments
            if norm["running_mean"] is not None and not norm["training"]:
                result = func(*args, **kwargs)
                scale = (norm["running_var"] + norm["eps"]).rsqrt()
                arrival.mean = norm["running_mean"]
                arrival.scale = scale if norm["weight"] is None else scale * norm["weight"]
                _look_through(arrival, func, args, kwargs, result)
                return result
            self._arrived()
        elif _name(func) not in METADATA:
            self._arrived()  # something else reads the output: it joins no residual stream
        return func(*args, **kwargs)


def _look_through(arrival: Arrival, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
    if result is not arrival.last:
        arrival._steps.append((func, args, kwargs, result))
        arrival.last = result


def _name(func: Any) -> str:
    """Name of a function, or of the property that it gets."""
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name


def _inside(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Tensors among arguments, one list or tuple deep."""
    for value in (*args, *kwargs.values()):
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Tensor):
                yield item


@contextlib.contextmanager
def watched(
    model: nn.Module, matrices: Mapping[str, Matrix], *, residual: bool = True
) -> Iterator[Callable[[Callable[[Arrival], None]], Watch]]:
    """Hooks at the read-outs; gives a function that makes the `Watch` of one forward pass.

    Args:
        model: Any module.
        matrices: Read-out parameter to how it is read.
        residual: Whether to look for what outputs are added to; otherwise they arrive at once.

    Example:
        >>> with watched(model, matrices) as watching:
        ...     with watching(print) as watch:
        ...         model(x)
    """
    modules = dict(model.named_modules())
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def called(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if _PASS.watch is not None:
                arrival = Arrival(name, module, inputs, output)
                arrival.last = output
                _PASS.watch.called(arrival)

        return called

    try:
        for name, matrix in matrices.items():
            handles.append(modules[matrix.module].register_forward_hook(hook(name)))
        yield lambda arrive: Watch(arrive, residual)
    finally:
        for handle in handles:
            handle.remove()


class _Done(Exception):
    """The forward pass has shown all that is wanted."""


def first_arrival(
    model: nn.Module, matrix: Matrix, batch: Any, run: Run, *, residual: bool = True
) -> Arrival:
    """The first arrival of one read-out; the pass ends there.

    Raises:
        InputError: The module was never called.
    """
    found: list[Arrival] = []

    def arrive(arrival: Arrival) -> None:
        found.append(arrival)
        raise _Done

    with watched(model, {matrix.module: matrix}, residual=residual) as watching:
        with contextlib.suppress(_Done, OutOfStep), watching(arrive) as watch:
            run(model, batch)
        if not found and watch.pending is not None:
            found.append(watch.pending)  # nothing that is seen reads it
    if not found:
        raise InputError(f"{matrix.module} was never called as a module")
    return found[0]


def call_order(model: nn.Module, matrices: Mapping[str, Matrix], batch: Any, run: Run) -> list[str]:
    """Names of the read-outs in the order in which the model first calls their modules."""
    order: list[str] = []
    modules = dict(model.named_modules())

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: order.append(name) if name not in order else None

    handles = [modules[m.module].register_forward_hook(hook(n)) for n, m in matrices.items()]
    try:
        with evaluating(model), torch.no_grad():
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return order


@dataclass(frozen=True)
class BiasPlace:
    """The tensor of a model that can take up a constant in a read-out's output.

    Attributes:
        name: Its name among the parameters and buffers.
        sign: What to multiply the constant by before it is added: a batch norm's running mean is
            subtracted from its input.
    """

    name: str
    sign: int = 1


def bias_places(
    model: nn.Module, matrices: Mapping[str, Matrix], batch: Any, run: Run
) -> dict[str, BiasPlace | None]:
    """Where each read-out's mean error can go: its own bias, or the batch norm that follows it."""
    places: dict[str, BiasPlace | None] = {}
    buffers = dict(model.named_buffers())
    for name, matrix in matrices.items():
        if isinstance(getattr(model.get_submodule(matrix.module), "bias", None), Tensor):
            places[name] = BiasPlace(f"{matrix.module}.bias")
            continue
        with evaluating(model), torch.no_grad():
            mean = first_arrival(model, matrix, batch, run).mean
        found = [n for n, value in buffers.items() if value is mean]
        places[name] = BiasPlace(found[0], -1) if mean is not None and found else None
    return places
