"""From a live model to a flat program: export without cache, in evaluation mode, any batch size."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export

from probcomp.errors import TraceError
from probcomp.structure.ir import Program, flatten, short_name

Inputs = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Leaf:
    """Place of the ``index``-th output tensor in the model's result."""

    index: int


@dataclass(frozen=True)
class Record:
    """A result object: called with its fields to be made again."""

    cls: type
    fields: Mapping[str, Any]


def export_program(
    model: torch.nn.Module,
    inputs: Inputs,
    outputs: Sequence[str | int] | None = None,
    dynamic: bool = True,
) -> tuple[Program, Any, bool]:
    """Export ``model`` on example inputs.

    Returns:
        The program, the layout of its result (nested containers with `Leaf` and `Record`), and
        whether leading dimensions stayed symbolic.

    Raises:
        TraceError: when the inputs do not fit or the model cannot be exported.
    """
    args, kwargs = _checked(model, inputs)
    layout: list[Any] = []
    with ExitStack() as stack:
        stack.enter_context(inference(model))
        stack.enter_context(_flat_output(model, outputs, layout))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        exported, free = _try_export(model, args, kwargs, dynamic)
    return flatten(exported, model), layout[-1], free


def _checked(model: torch.nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword example tensors, on meta when the model is."""
    if isinstance(inputs, Mapping):
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = dict(inputs)
    elif isinstance(inputs, (tuple, list)):
        args, kwargs = tuple(inputs), {}
    else:
        raise TraceError(
            f"example inputs are a tuple (positional) or a dict (keyword) of tensors, "
            f"got {type(inputs).__name__}; for one tensor pass (tensor,)"
        )
    if not args and not kwargs:
        raise TraceError("no example inputs: pass at least one tensor")
    for name, value in [*enumerate(args), *kwargs.items()]:
        if not isinstance(value, torch.Tensor):
            raise TraceError(
                f"example input {name!r} is {type(value).__name__}, expected a tensor; "
                "leave out arguments that keep their default"
            )
    devices = {p.device.type for p in model.parameters()}
    if devices == {"meta"}:
        args = tuple(a.to("meta") for a in args)
        kwargs = {name: value.to("meta") for name, value in kwargs.items()}
    return args, kwargs


# Operators of attention and of shifted windows: with free image sizes their sizes become products
# and remainders of symbols, which takes minutes to simplify.
_MIXES_POSITIONS = {"scaled_dot_product_attention", "softmax", "matmul", "bmm", "einsum", "roll"}


def _try_export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: bool
) -> tuple[Any, bool]:
    """Export with as many free sizes as the model permits: all, the leading ones, none."""
    found: tuple[Any, bool] | None = None
    if dynamic:
        for freedom in (_leading, _every):
            if found is not None and not _may_free_extents(found[0], (*args, *kwargs.values())):
                break
            try:
                found = _export(model, args, kwargs, freedom), True
            except TraceError:
                raise
            except Exception:  # a model may fix its sizes; export says so in many ways
                break
    if found is None:
        try:
            found = _export(model, args, kwargs, None), False
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(_why(model, args, kwargs, error)) from error
    return found


def _may_free_extents(exported: Any, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether it is worth a second export with free image sizes: a network without attention."""
    ops = {short_name(node) for node in exported.graph.nodes if node.op == "call_function"}
    return any(t.ndim > 3 for t in tensors) and not ops & _MIXES_POSITIONS


def _export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    freedom: Callable[[torch.Tensor], range] | None,
) -> Any:
    if freedom is None:
        with redirect_stderr(StringIO()):  # torch prints whole graphs before it raises
            return export(model, args, kwargs, strict=False)
    shapes = _named(model, args, kwargs, freedom)
    ones = any(t.shape[d] == 1 for t in (*args, *kwargs.values()) for d in freedom(t))
    # A batch of one would be taken for the constant 1 and fixed for ever.
    config: Any = symbolic_config
    patch = config.patch(backed_size_oblivious=True) if ones else nullcontext()
    with patch, redirect_stderr(StringIO()):
        return export(model, args, kwargs, strict=False, dynamic_shapes=shapes)


def _leading(tensor: torch.Tensor) -> range:
    """Dimensions that count samples or positions: all of token ids, all but the last features of
    sequences, the first of images and of plain feature rows."""
    if not tensor.is_floating_point() and tensor.ndim <= 2:
        return range(tensor.ndim)
    return range(2 if tensor.ndim == 3 else min(tensor.ndim, 1))


def _every(tensor: torch.Tensor) -> range:
    """Also the extents of images. Channels are fixed by the weights that read them."""
    return range(tensor.ndim) if tensor.ndim > 3 else _leading(tensor)


def _named(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    freedom: Callable[[torch.Tensor], range],
) -> dict[str, Any]:
    """Dynamic shapes by parameter name of forward, variadic arguments nested as they are bound."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)

    def spec(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(spec(v) for v in value)
        if isinstance(value, dict):
            return {k: spec(v) for k, v in value.items()}
        return dict.fromkeys(freedom(value), Dim.AUTO) or None

    return {name: spec(value) for name, value in bound.arguments.items()}


def _why(model: torch.nn.Module, args: Any, kwargs: Any, error: Exception) -> str:
    """One line: do the inputs not fit, or does the export fail?"""
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(
                *(mode.from_tensor(a) for a in args),
                **{k: mode.from_tensor(v) for k, v in kwargs.items()},
            )
    except Exception as failure:
        shapes = [f"{k}: {tuple(v.shape)}" for k, v in [*enumerate(args), *kwargs.items()]]
        if type(failure).__name__ not in (
            "DataDependentOutputException",
            "GuardOnDataDependentSymNode",
        ):
            return (
                f"{type(model).__name__} does not run on the example inputs ({', '.join(shapes)}): "
                f"{_line(failure)}; pass inputs of the shapes, types and names its forward expects"
            )
    return (
        f"torch.export cannot follow {type(model).__name__}: {_line(error)}; remove control flow "
        "that depends on tensor values, or trace the part of the model without it"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": ")


# Temporary changes of the model, all undone ------------------------------------------------------


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """The state in which a model is traced and compared: evaluation, no cache, plain attention."""
    with _evaluating(model), _without_cache(model), _plain_attention():
        yield


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _without_cache(model: torch.nn.Module) -> Iterator[None]:
    """Turn ``use_cache`` off in every configuration the modules hold."""
    changed: list[tuple[Any, Any]] = []
    configs: list[Any] = [vars(m).get("config") for m in model.modules()]
    seen: set[int] = set()
    while configs:
        config = configs.pop()
        if config is None or id(config) in seen or not hasattr(config, "to_dict"):
            continue
        seen.add(id(config))
        configs.extend(v for v in vars(config).values() if hasattr(v, "to_dict"))
        if "use_cache" in vars(config):
            changed.append((config, config.use_cache))
            config.use_cache = False
    try:
        yield
    finally:
        for config, value in changed:
            config.use_cache = value


@contextmanager
def _plain_attention() -> Iterator[None]:
    """The fused inference path of ``nn.MultiheadAttention`` hides its structure."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _flat_output(
    model: torch.nn.Module, outputs: Sequence[str | int] | None, layout: list[Any]
) -> Iterator[None]:
    """Let forward return a flat tuple of tensors; ``layout`` receives what it returned before."""
    forward = model.forward
    takes_cache = "use_cache" in inspect.signature(forward).parameters
    own = vars(model).get("forward")

    @functools.wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        if takes_cache and kwargs.get("use_cache") is None:
            kwargs["use_cache"] = False
        result = forward(*args, **kwargs)
        tensors: list[torch.Tensor] = []
        layout.append(_describe(_select(result, outputs), tensors))
        if not tensors:
            raise TraceError("forward returns no tensor, so nothing depends on the model")
        return tuple(tensors)

    model.forward = flat
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def _select(result: Any, outputs: Sequence[str | int] | None) -> Any:
    """Only the named entries of the result: keys, fields, or positions."""
    if outputs is None:
        return result
    if isinstance(outputs, (str, int)):
        outputs = [outputs]
    if isinstance(result, Mapping):
        entries: dict[Any, Any] = dict(result.items())
    elif dataclasses.is_dataclass(result):
        entries = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    elif isinstance(result, (tuple, list)):
        entries = dict(enumerate(result))
    else:
        entries = {0: result}
    missing = [name for name in outputs if entries.get(name) is None]
    if missing:
        known = [name for name, value in entries.items() if value is not None]
        raise TraceError(f"the model returns no {missing[0]!r}; it returns {known}")
    chosen: Any = {name: entries[name] for name in outputs}
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, (tuple, list)):
        return tuple(chosen.values())
    return chosen if type(result) is dict else type(result)(**chosen)


def _describe(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Replace tensors by `Leaf` and result objects by `Record`; collect the tensors."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return Leaf(len(tensors) - 1)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Record(type(value), {n: _describe(v, tensors) for n, v in zip(value._fields, value)})
    if isinstance(value, (tuple, list)):
        return type(value)(_describe(v, tensors) for v in value)
    if type(value) is dict:
        return {k: _describe(v, tensors) for k, v in value.items()}
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        items = (
            dict(value.items())
            if isinstance(value, Mapping)
            else {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        )
        return Record(type(value), {k: _describe(v, tensors) for k, v in items.items()})
    raise TraceError(
        f"forward returns a {type(value).__name__}, expected tensors in tuples, lists, dicts or "
        "dataclasses; name the outputs to keep with outputs=[...]"
    )
